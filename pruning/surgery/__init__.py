"""Plans carried out: channels and blocks are cut, and networks put together of two."""
