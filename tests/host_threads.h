// The loops of threads.cuh on a CPU: one thread computes a CTA. The tests run all loops forward and backward. A result
// that differs shows that the threads of a loop, or the CTAs of a kernel, depend on each other.

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <vector>

#define DEVICE inline
#define FUNCTION inline
#define KERNEL(name) void name(const Arguments& a)
#define SHARED(name) float* name = cta.shared
#define UNROLL(times)

struct Cta {
  int x, y, z, threads;
  float* shared;
  bool backward;
};
static thread_local Cta cta;

inline int threads() { return cta.threads; }
inline int block_x() { return cta.x; }
inline int block_y() { return cta.y; }
inline int block_z() { return cta.z; }

template <class Body>
void each(int count, Body body) {
  for (int i = 0; i < count; ++i) body(cta.backward ? count - 1 - i : i);
}

template <class Item, class At, class Load, class Store>
void move(int count, At at, Load load, Store store) {
  each(count, [&](int i) { store(at(i), load(at(i))); });
}

template <class Term, class Finish>
void dot_products(int rows, int columns, Term term, Finish finish) {
  each(rows, [&](int row) {
    float lanes[32] = {0};
    for (int column = 0; column < columns; ++column) lanes[column % 32] += term(row, column);
    for (int offset = 16; offset > 0; offset /= 2)
      for (int lane = 0; lane < offset; ++lane) lanes[lane] += lanes[lane + offset];
    finish(row, lanes[0]);
  });
}

template <class Predicate>
int count_if(int count, Predicate predicate) {
  int total = 0;
  for (int i = 0; i < count; ++i) total += predicate(i);
  return total;
}

inline int take_one(int* counter) { return (*counter)++; }
template <class Value>
void prefetch(const Value*, int) {}
inline bool is_aligned(const void* address) { return reinterpret_cast<unsigned long long>(address) % 16 == 0; }
inline unsigned bits_of(float value) {
  unsigned bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}
inline float exponential(float value) { return std::exp(value); }

#if ELEMENT_BITS == 32
using Element = float;
inline float to_float(Element value) { return value; }
inline Element from_float(float value) { return value; }
#elif defined(ELEMENT_BFLOAT16)
struct Element {
  unsigned short bits;
};
inline float to_float(Element value) {
  const unsigned bits = static_cast<unsigned>(value.bits) << 16;
  float result;
  std::memcpy(&result, &bits, 4);
  return result;
}
inline Element from_float(float value) {
  if (value != value) return Element{0x7FC0};
  const unsigned bits = bits_of(value);
  return Element{static_cast<unsigned short>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16)};
}
#else
using Element = _Float16;
inline float to_float(Element value) { return value; }
inline Element from_float(float value) { return static_cast<Element>(value); }
#endif

constexpr int VECTOR = 16 / sizeof(Element);

template <int WIDTH>
void load(const Element* from, float* to) {
  if (WIDTH > 1 && !is_aligned(from)) std::abort();  // as a GPU does
  for (int at = 0; at < WIDTH; ++at) to[at] = to_float(from[at]);
}
