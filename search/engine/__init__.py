"""How a study is carried out: prepared, asked for trials, and finished, by processes that may die."""
