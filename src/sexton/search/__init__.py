"""The query language: text to a typed tree, the tree to SQL or to yes and no, and back to text.

Pure: what a name, a number or a date means is decided here, from the text and `now` alone. It knows no run, no
database and no clock; `compile` writes SQL but runs none.
"""
