"""What a study found as rows and words, in the forms of documents and terminals."""
