"""One reader per kind of file: each yields a row's place and its object, and holds no more than a few rows."""
