"""The MoD block on a GPU as one to four CUDA kernels, compiled at run time."""
