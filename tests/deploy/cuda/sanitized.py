"""Run random cases in kernels compiled with AddressSanitizer. `test_block.py` starts this file in a process of its own.

The second argument is a number of bytes by which the kernels get too little shared memory.
"""

import dataclasses
import sys

import host_kernels
import torch
from cuda_cases import random_case

from cnnmod.deploy.cuda.plan import Limits

if __name__ == "__main__":
    compile_ = host_kernels.library
    host_kernels.library = lambda dtype: compile_(
        dtype, ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover")
    )
    cases, missing_bytes = map(int, sys.argv[1:])

    class Sanitized(host_kernels.Host):
        def launch(self, launches, *arguments):
            smaller = [dataclasses.replace(each, shared_bytes=each.shared_bytes - missing_bytes) for each in launches]
            super().launch(smaller, *arguments)

    for seed in range(cases):
        case = random_case(seed)
        for limits in (host_kernels.H100, Limits(40 * 1024, 132)):
            result = case.x_NCHW.clone(memory_format=torch.preserve_format)
            Sanitized(limits=limits).mod_block_(result, *case.arguments)
    print("no error")
