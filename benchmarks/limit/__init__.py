"""The limit: reference kernels in C with AVX-512 intrinsics, one file a family of workloads."""
