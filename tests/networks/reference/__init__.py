"""The originals once more, slowly: plain functions in double precision, one token after the other.

Nothing here imports the product. Each function states the names and shapes of the original's tensors where it uses
them, so the same lines draw weights and compute with them (`weights`). What judges these functions are the shared
files of the originals, which they reproduce where those reach; where they do not (odd maps, other norms, ranks and
numbers of blocks), `files` writes files of the same kind from them, which the product must reproduce in turn.
"""
