"""The limit: reference kernels in C with AVX-512 or AVX2 intrinsics, one file a family of workloads."""
