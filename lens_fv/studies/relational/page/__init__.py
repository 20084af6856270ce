"""The study on a page: numbers over relations, tables, figures, and the words around them."""
