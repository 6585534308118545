// Loops over the threads of a CTA. Each ends with a barrier. The number of threads is a multiple of 32.

#define DEVICE __device__ __forceinline__
#define KERNEL(name) extern "C" __global__ void __launch_bounds__(1024) name(const __grid_constant__ Arguments a)
#define SHARED(name) extern __shared__ float name[]

DEVICE int threads() { return blockDim.x; }
DEVICE int block_x() { return blockIdx.x; }
DEVICE int block_y() { return blockIdx.y; }
DEVICE int block_z() { return blockIdx.z; }

// Call body(0), …, body(count - 1).
template <class Body>
DEVICE void each(int count, Body body) {
  for (int i = threadIdx.x; i < count; i += blockDim.x) body(i);
  __syncthreads();
}

// Call finish(row, sum over all columns of term(row, column)). A warp computes a row.
template <class Term, class Finish>
DEVICE void dot_products(int rows, int columns, Term term, Finish finish) {
  const int lane = threadIdx.x % 32;
  for (int row = threadIdx.x / 32; row < rows; row += blockDim.x / 32) {
    float sum = 0;
    for (int column = lane; column < columns; column += 32) sum += term(row, column);
    for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xFFFFFFFFu, sum, offset);
    if (lane == 0) finish(row, sum);
  }
  __syncthreads();
}

// Return how many of 0, …, count - 1 satisfy the predicate. All threads get the result.
template <class Predicate>
DEVICE int count_if(int count, Predicate predicate) {
  int total = 0;
  for (int base = 0; base < count; base += blockDim.x) {
    const int i = base + threadIdx.x;
    total += __syncthreads_count(i < count && predicate(i));
  }
  return total;
}

// Increment a counter in shared memory, and return its old value.
DEVICE int take_one(int* counter) { return atomicAdd(counter, 1); }

DEVICE unsigned bits_of(float value) { return __float_as_uint(value); }
DEVICE float exponential(float value) { return expf(value); }

#if ELEMENT_BITS == 32
using Element = float;
DEVICE float to_float(Element value) { return value; }
DEVICE Element from_float(float value) { return value; }
#elif defined(ELEMENT_BFLOAT16)
struct Element {
  unsigned short bits;
};
DEVICE float to_float(Element value) { return __uint_as_float(static_cast<unsigned>(value.bits) << 16); }
DEVICE Element from_float(float value) {  // rounds to nearest even
  const unsigned bits = __float_as_uint(value);
  if (value != value) return Element{0x7FC0};
  return Element{static_cast<unsigned short>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16)};
}
#else
struct Element {
  unsigned short bits;
};
DEVICE float to_float(Element value) {
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
  return result;
}
DEVICE Element from_float(float value) {
  Element result;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
  return result;
}
#endif
