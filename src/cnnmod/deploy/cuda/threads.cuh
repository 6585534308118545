// Loops over the threads of a CTA. Each ends with a barrier, except `prefetch`. The number of threads is a multiple of 32.

#define DEVICE __device__ __forceinline__
#define FUNCTION __device__ __noinline__
#define KERNEL(name) extern "C" __global__ void __launch_bounds__(1024) name(const __grid_constant__ Arguments a)
#define SHARED(name) extern __shared__ float name[]
#define UNROLL(times) _Pragma(UNROLL_TEXT(unroll times))
#define UNROLL_TEXT(text) #text

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

// Call store(item, load(item)) for the items at(0), …, at(count - 1). A thread loads several values before it stores
// them.
template <class Item, class At, class Load, class Store>
DEVICE void move(int count, At at, Load load, Store store) {
  constexpr int together = 4;
  for (int first = threadIdx.x; first < count; first += together * blockDim.x) {
    Item item[together];
    float value[together];
    #pragma unroll
    for (int number = 0; number < together; ++number) {
      item[number] = at(first + number * blockDim.x);
      if (first + number * blockDim.x < count) value[number] = load(item[number]);
    }
    #pragma unroll
    for (int number = 0; number < together; ++number)
      if (first + number * blockDim.x < count) store(item[number], value[number]);
  }
  __syncthreads();
}

// Call finish(row, sum over all columns of term(row, column)). A warp, or a part of it if there are few columns,
// computes several rows at a time, so that it waits once for the memory of all of them.
template <class Term, class Finish>
DEVICE void dot_products(int rows, int columns, Term term, Finish finish) {
  constexpr int together = 4;
  int bits = 5;  // a row has 2 ** bits lanes
  while (bits > 0 && 1 << (bits - 1) >= columns) --bits;
  const int lanes = 1 << bits, lane = threadIdx.x & (lanes - 1), step = blockDim.x >> bits;
  const int in_warp = (threadIdx.x & 31) >> bits;
  for (int first = threadIdx.x >> 5 << (5 - bits); first < rows; first += together * step) {
    float sum[together] = {};
    #pragma unroll 1
    for (int column = lane; column < columns; column += lanes) {
      #pragma unroll
      for (int at = 0; at < together; ++at)
        if (first + at * step < rows) sum[at] += term(min(first + at * step + in_warp, rows - 1), column);
    }
    #pragma unroll
    for (int at = 0; at < together; ++at) {
      for (int offset = lanes / 2; offset > 0; offset /= 2) sum[at] += __shfl_xor_sync(0xFFFFFFFFu, sum[at], offset);
      const int row = first + at * step + in_warp;
      if (lane == 0 && row < rows) finish(row, sum[at]);
    }
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

// Start to load elements, without waiting for them.
template <class Value>
DEVICE void prefetch(const Value* first, int count) {
  constexpr int line = 128 / sizeof(Value);
  for (int i = threadIdx.x * line; i < count; i += blockDim.x * line)
    asm volatile("prefetch.global.L1 [%0];" ::"l"(first + i));
}

DEVICE bool is_aligned(const void* address) { return reinterpret_cast<unsigned long long>(address) % 16 == 0; }
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

// Load WIDTH elements, which is 1 or VECTOR. A vector has 16 bytes, and its address is a multiple of 16.
constexpr int VECTOR = 16 / sizeof(Element);

template <int WIDTH>
DEVICE void load(const Element* from, float* to) {
  if constexpr (WIDTH == 1) {
    *to = to_float(*from);
  } else {
    const uint4 bits = *reinterpret_cast<const uint4*>(from);
    Element values[WIDTH];
    memcpy(values, &bits, sizeof bits);
    #pragma unroll
    for (int at = 0; at < WIDTH; ++at) to[at] = to_float(values[at]);
  }
}
