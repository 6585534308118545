// The MoD block on a GPU: pool, score, select, gather, Conv-Block, scale, add.
//
// A MoD block does little arithmetic. Most of its time would be the start of a dozen kernels, so one CTA computes all
// of an image in one kernel, and nothing leaves the SM but the result (`mod_block`). If many channels are pooled, many
// CTAs pool them first (`pool`). If the k planes do not fit into shared memory, several kernels compute the block in
// tiles of rows (`pool`, `select_channels`, `tiles`, `add_result`). plan.py decides which kernels run.
//
// The Conv-Block is a program over registers, as in fused.cpp. A register holds planes (channels, pixels) in float32, in
// shared memory.
//
// A thread loads several values before it uses them, as vectors of VECTOR elements where addresses are aligned. So it
// waits for memory less often. The weights are prefetched.
//
// This file has no threads of its own. threads.cuh, which precedes it, defines `each`, `move`, `dot_products` and
// `count_if`: they distribute a loop over the threads of a CTA and end with a barrier. The tests compile the file for
// the CPU with loops instead.

struct Step {
  int operation;                  // 0: convolution, 1: ReLU, 2: sum, 3: ReLU6
  int inputs, outputs;            // numbers of channels
  int target, source, other;      // the first channel of each register in shared memory
  int size, dilation, padding, groups;
  int weight_last;                // whether the weight is channels last
  const Element *weight, *bias;   // `bias` may be null
};

struct Arguments {
  Element* x;                     // (N, C, H, W), contiguous or channels last
  const Element *reduce, *expand; // (hidden, pool), (pool, hidden)
  const Element* gain;            // (k), or null
  float* sums;                    // (N, strips, pool): sums of pixels; null if `mod_block` pools
  float* score;                   // (N, k)
  int* index;                     // (N, k)
  float* result;                  // (N, k, H, W): the scaled result of the Conv-Block
  int images, channels, height, width, channels_last;
  int pool, hidden, k, by_index;
  int start;                      // the first channel of the fusion; negative: the positions of the selected channels
  int strips, pool_tile, tile_rows, halo;
  int output;                     // the first channel of the result in shared memory
  int num_steps;
  Step steps[MOST_STEPS];
};
static_assert(sizeof(Arguments) == ARGUMENTS_BYTES, "arguments.py has other arguments");

DEVICE int pixels_of(const Arguments& a) { return a.height * a.width; }

DEVICE Element* image_of(const Arguments& a, int image) {
  return a.x + static_cast<long long>(image) * a.channels * pixels_of(a);
}

// The position of a channel's pixel within an image.
DEVICE int position(const Arguments& a, int channel, int pixel) {
  return a.channels_last ? pixel * a.channels + channel : channel * pixels_of(a) + pixel;
}

// The quotient and remainder of two numbers that are not negative.
struct Division {
  int quotient, rest;
  DEVICE Division(unsigned number, unsigned divisor) : quotient(number / divisor), rest(number - quotient * divisor) {}
};

// Call store(channel, pixel, load(channel, pixel)) for some channels of some pixels, along contiguous memory.
template <class Load, class Store>
DEVICE void move_values(const Arguments& a, int channels, int pixels, Load load, Store store) {
  struct Item {
    int channel, pixel;
  };
  const int inner = a.channels_last ? channels : pixels;
  move<Item>(
      channels * pixels,
      [&](int i) {
        const Division at(i, inner);
        return a.channels_last ? Item{at.rest, at.quotient} : Item{at.quotient, at.rest};
      },
      [&](Item item) { return load(item.channel, item.pixel); },
      [&](Item item, float value) { store(item.channel, item.pixel, value); });
}

// Vectors of VECTOR elements lie in shared memory as all first elements, all second elements, …, so that threads that
// read neighboring vectors read neighboring addresses. This is the place of one of `count` elements.
DEVICE int spread(int at, int count, bool vectors) {
  return vectors ? at % VECTOR * (count / VECTOR) + at / VECTOR : at;
}

DEVICE bool has_vectors(const Element* first, int count) { return count % VECTOR == 0 && is_aligned(first); }

// Sum the pixels first, first + 1, …, last - 1 of some channels. WIDTH neighboring channels are loaded at once.
// `partial` has room for WIDTH values of each thread and one of each channel.
template <int WIDTH>
DEVICE void sum_vectors(const Arguments& a, const Element* image, int channel, int channels, int first, int last,
                        float* partial, float* sums) {
  const int groups = channels / WIDTH, most = Division(threads(), groups).quotient, pixels = last - first;
  const int lanes = pixels < 1 || most < 1 ? 1 : pixels < most ? pixels : most, pitch = lanes | 1;
  const int inner = a.channels_last ? groups : lanes;
  each(groups * lanes, [&](int i) {
    const Division at(i, inner);
    const int group = a.channels_last ? at.rest : at.quotient, lane = a.channels_last ? at.quotient : at.rest;
    float sum[WIDTH] = {};
    UNROLL(4)
    for (int pixel = first + lane; pixel < last; pixel += lanes) {
      float value[WIDTH];
      load<WIDTH>(image + position(a, channel + group * WIDTH, pixel), value);
      for (int part = 0; part < WIDTH; ++part) sum[part] += value[part];
    }
    for (int part = 0; part < WIDTH; ++part) partial[(part * groups + group) * pitch + lane] = sum[part];
  });
  dot_products(
      channels, lanes, [&](int at, int lane) { return partial[spread(at, channels, WIDTH > 1) * pitch + lane]; },
      [&](int at, float sum) { sums[at] = sum; });
}

DEVICE void sum_pixels(const Arguments& a, const Element* image, int channel, int channels, int first, int last,
                       float* partial, float* sums) {
  const bool vectors = a.channels_last && a.channels % VECTOR == 0 && has_vectors(image + channel, channels);
  if (vectors) sum_vectors<VECTOR>(a, image, channel, channels, first, last, partial, sums);
  else sum_vectors<1>(a, image, channel, channels, first, last, partial, sums);
}

template <int WIDTH>
DEVICE void multiply_vectors(const Element* matrix, int rows, int columns, const float* vector, float* result) {
  const int groups = columns / WIDTH;
  dot_products(
      rows, groups,
      [&](int row, int group) {
        float weight[WIDTH], sum = 0;
        load<WIDTH>(matrix + static_cast<long long>(row) * columns + group * WIDTH, weight);
        for (int at = 0; at < WIDTH; ++at) sum += weight[at] * vector[at * groups + group];
        return sum;
      },
      [&](int row, float sum) { result[row] = sum; });
}

// Multiply a matrix with a vector. If the matrix has vectors, `spread` gives the places of the vector's elements.
FUNCTION void multiply(const Element* matrix, int rows, int columns, const float* vector, float* result) {
  if (has_vectors(matrix, columns)) multiply_vectors<VECTOR>(matrix, rows, columns, vector, result);
  else multiply_vectors<1>(matrix, rows, columns, vector, result);
}

// An unsigned integer that sorts like a logit. NaN is highest, and -0.0 equals 0.0.
DEVICE unsigned rank_key(float logit) {
  if (logit != logit) return 0xFFFFFFFFu;
  const unsigned bits = bits_of(logit + 0.0f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// The memory of the selection, which the planes overwrite.
struct Scratch {
  float *mean, *hidden, *logit, *partial;
  unsigned* key;
  int *list, *order, *counter;
};

DEVICE Scratch scratch_at(const Arguments& a, float* memory) {
  Scratch s;
  s.mean = memory;
  s.hidden = s.mean + a.pool;
  s.logit = s.hidden + a.hidden;
  s.key = reinterpret_cast<unsigned*>(s.logit + (a.hidden > a.pool ? a.hidden : a.pool));
  s.list = reinterpret_cast<int*>(s.key + a.pool);
  s.order = s.list + a.pool;
  s.counter = s.order + a.k;
  s.partial = reinterpret_cast<float*>(s.counter + 1);
  return s;
}

// Write the channels that can be selected to `list`, and return their number. Few channels are all listed. Of many
// channels, those with the k highest keys are listed: a key that k channels reach is found bit by bit. There is none if
// several channels have the k-th key. Then the last one of these that is selected is found in the same way.
DEVICE int list_channels(const Arguments& a, const Scratch& s) {
  if (a.pool <= ALL_PAIRS) {
    each(a.pool, [&](int channel) { s.list[channel] = channel; });
    return a.pool;
  }
  unsigned lowest = 0;
  int listed = 0, last = a.pool;
  for (int bit = 31; bit >= 0 && listed != a.k; --bit) {
    const unsigned trial = lowest | 1u << bit;
    listed = count_if(a.pool, [&](int channel) { return s.key[channel] >= trial; });
    if (listed >= a.k) lowest = trial;
  }
  if (listed != a.k) {
    const int tied = a.k - count_if(a.pool, [&](int channel) { return s.key[channel] > lowest; });
    last = 0;
    for (int bit = 30; bit >= 0; --bit) {
      const int trial = last | 1 << bit;
      if (trial >= a.pool) continue;
      if (count_if(a.pool, [&](int channel) { return s.key[channel] == lowest && channel < trial; }) < tied)
        last = trial;
    }
  }
  each(1, [&](int) { *s.counter = 0; });
  each(a.pool, [&](int channel) {
    if (s.key[channel] > lowest || (s.key[channel] == lowest && channel <= last))
      s.list[take_one(s.counter)] = channel;
  });
  return a.k;
}

// Compute the logits from the means, rank them like `select_channels`, and write the scores and indices of k channels.
DEVICE void select(const Arguments& a, const Scratch& s, float* score, int* index) {
  multiply(a.reduce, a.hidden, a.pool, s.mean, s.logit);
  const bool vectors = has_vectors(a.expand, a.hidden);
  each(a.hidden, [&](int unit) {
    const float sum = s.logit[unit];
    s.hidden[spread(unit, a.hidden, vectors)] = sum < 0 ? 0 : sum;
  });
  multiply(a.expand, a.pool, a.hidden, s.hidden, s.logit);
  each(a.pool, [&](int channel) { s.key[channel] = rank_key(s.logit[channel]); });
  const int listed = list_channels(a, s);
  dot_products(
      listed, listed,
      [&](int at, int other) {
        const int channel = s.list[at], rival = s.list[other];
        return s.key[rival] > s.key[channel] || (s.key[rival] == s.key[channel] && rival < channel) ? 1.0f : 0.0f;
      },
      [&](int at, float rank) {
        if (rank < a.k) s.order[static_cast<int>(rank)] = s.list[at];
      });
  each(a.k, [&](int rank) {
    const int channel = s.order[rank];
    int place = rank;
    if (a.by_index) {
      place = 0;
      for (int other = 0; other < a.k; ++other) place += s.order[other] < channel;
    }
    const float gain = a.gain ? to_float(a.gain[place]) : 1.0f;
    score[place] = gain / (1.0f + exponential(-s.logit[channel]));
    index[place] = channel;
  });
}

// The mean of each candidate of an image, from the sums of `pool` or from the image. `spread` gives their places.
DEVICE void find_means(const Arguments& a, int image, const Scratch& s) {
  const float scale = 1.0f / pixels_of(a);
  const bool vectors = has_vectors(a.reduce, a.pool);
  if (!a.sums) sum_pixels(a, image_of(a, image), 0, a.pool, 0, pixels_of(a), s.partial, s.logit);
  each(a.pool, [&](int channel) {
    float sum = a.sums ? 0 : s.logit[channel];
    if (a.sums) {
      const float* sums = a.sums + static_cast<long long>(image) * a.strips * a.pool + channel;
      UNROLL(4)
      for (int strip = 0; strip < a.strips; ++strip) sum += sums[strip * a.pool];
    }
    s.mean[spread(channel, a.pool, vectors)] = sum * scale;
  });
}

// Start to load the weights, except those of a large selector.
DEVICE void prefetch_weights(const Arguments& a) {
  if (a.pool <= ALL_PAIRS) {
    prefetch(a.reduce, a.hidden * a.pool);
    prefetch(a.expand, a.hidden * a.pool);
  }
  if (a.gain) prefetch(a.gain, a.k);
  for (int at = 0; at < a.num_steps; ++at) {
    const Step& step = a.steps[at];
    if (step.operation == 0) {
      prefetch(step.weight, step.outputs * (step.inputs / step.groups) * step.size * step.size);
      if (step.bias) prefetch(step.bias, step.outputs);
    }
  }
}

DEVICE void convolve(const Step& step, float* planes, int rows, int width) {
  const int area = rows * width, size = step.size;
  const int inputs = Division(step.inputs, step.groups).quotient;
  const int outputs = Division(step.outputs, step.groups).quotient;  // of a group
  each(step.outputs * area, [&](int i) {
    const Division at(i, area), pixel_at(at.rest, width);
    const int output = at.quotient, pixel = at.rest, y = pixel_at.quotient, x = pixel_at.rest;
    const int group = Division(output, outputs).quotient;
    const float* source = planes + (step.source + group * inputs) * area;
    const Element* weight = step.weight + static_cast<long long>(output) * inputs * size * size;
    float sum = step.bias ? to_float(step.bias[output]) : 0;
    const int next_input = step.weight_last ? 1 : size * size, next_tap = step.weight_last ? inputs : 1;
    for (int row = 0; row < size; ++row) {
      const int from_y = y + row * step.dilation - step.padding;
      if (from_y < 0 || from_y >= rows) continue;
      for (int column = 0; column < size; ++column) {
        const int from_x = x + column * step.dilation - step.padding;
        if (from_x < 0 || from_x >= width) continue;
        const Element* tap = weight + (row * size + column) * next_tap;
        const float* from = source + from_y * width + from_x;
        UNROLL(4)
        for (int input = 0; input < inputs; ++input) sum += to_float(tap[input * next_input]) * from[input * area];
      }
    }
    planes[(step.target + output) * area + pixel] = sum;
  });
}

// Gather the selected channels of some rows into register 0, and run the Conv-Block.
DEVICE void run_conv_block(const Arguments& a, const Element* image, const int* index, int first_row, int rows,
                           float* planes) {
  const int area = rows * a.width;
  move_values(
      a, a.k, area,
      [&](int place, int pixel) { return to_float(image[position(a, index[place], first_row * a.width + pixel)]); },
      [&](int place, int pixel, float value) { planes[place * area + pixel] = value; });
  for (int at = 0; at < a.num_steps; ++at) {
    const Step& step = a.steps[at];
    if (step.operation == 0) {
      convolve(step, planes, rows, a.width);
      continue;
    }
    float* target = planes + step.target * area;
    const float *source = planes + step.source * area, *other = planes + step.other * area;
    each(step.outputs * area, [&](int i) {
      const float value = source[i];
      if (step.operation == 1) target[i] = value < 0 ? 0 : value;
      else if (step.operation == 2) target[i] = value + other[i];
      else target[i] = value < 0 ? 0 : value > 6 ? 6 : value;
    });
  }
}

// Add value(place, pixel) to some pixels of the fused channels of an image.
template <class Value>
DEVICE void add(const Arguments& a, Element* image, const int* index, int first, int pixels, Value value) {
  const auto target = [&](int place, int pixel) -> Element& {
    return image[position(a, a.start < 0 ? index[place] : a.start + place, first + pixel)];
  };
  move_values(
      a, a.k, pixels,
      [&](int place, int pixel) { return to_float(target(place, pixel)) + value(place, first + pixel); },
      [&](int place, int pixel, float sum) { target(place, pixel) = from_float(sum); });
}

// One CTA for each image.
KERNEL(mod_block) {
  SHARED(shared);
  const int image = block_x(), area = pixels_of(a);
  float *score = shared, *planes = shared + 2 * a.k;
  int* index = reinterpret_cast<int*>(shared + a.k);
  const Scratch scratch = scratch_at(a, planes);
  prefetch_weights(a);
  find_means(a, image, scratch);
  select(a, scratch, score, index);
  run_conv_block(a, image_of(a, image), index, 0, a.height, planes);
  add(a, image_of(a, image), index, 0, area, [&](int place, int pixel) {
    return score[place] * planes[(a.output + place) * area + pixel];
  });
}

// One CTA for each image, tile of channels and strip of pixels.
KERNEL(pool) {
  SHARED(shared);
  const int channel = block_y() * a.pool_tile;
  const int channels = channel + a.pool_tile < a.pool ? a.pool_tile : a.pool - channel;
  const int length = (pixels_of(a) + a.strips - 1) / a.strips, first = block_z() * length;
  const int last = first + length < pixels_of(a) ? first + length : pixels_of(a);
  float* sums = a.sums + (static_cast<long long>(block_x()) * a.strips + block_z()) * a.pool + channel;
  sum_pixels(a, image_of(a, block_x()), channel, channels, first, last, shared, sums);
}

// One CTA for each image.
KERNEL(select_channels) {
  SHARED(shared);
  const Scratch scratch = scratch_at(a, shared);
  const long long at = static_cast<long long>(block_x()) * a.k;
  find_means(a, block_x(), scratch);
  select(a, scratch, a.score + at, a.index + at);
}

// One CTA for each image and tile of rows. A tile is computed with a halo of rows on both sides.
KERNEL(tiles) {
  SHARED(shared);
  const int image = block_x(), first = block_y() * a.tile_rows, pixels = pixels_of(a);
  const int last = first + a.tile_rows < a.height ? first + a.tile_rows : a.height;
  const int low = first - a.halo > 0 ? first - a.halo : 0;
  const int high = last + a.halo < a.height ? last + a.halo : a.height;
  const int area = (high - low) * a.width, skipped = (first - low) * a.width;
  const long long at = static_cast<long long>(image) * a.k;
  run_conv_block(a, image_of(a, image), a.index + at, low, high - low, shared);
  const int tile = (last - first) * a.width;
  each(a.k * tile, [&](int i) {
    const Division at_plane(i, tile);
    const int place = at_plane.quotient, pixel = at_plane.rest;
    const float value = a.score[at + place] * shared[(a.output + place) * area + skipped + pixel];
    a.result[(at + place) * pixels + first * a.width + pixel] = value;
  });
}

// One CTA for each image and tile of rows.
KERNEL(add_result) {
  const int image = block_x(), first = block_y() * a.tile_rows, pixels = pixels_of(a);
  const int last = first + a.tile_rows < a.height ? first + a.tile_rows : a.height;
  const long long at = static_cast<long long>(image) * a.k;
  add(a, image_of(a, image), a.index + at, first * a.width, (last - first) * a.width, [&](int place, int pixel) {
    return a.result[(at + place) * pixels + pixel];
  });
}
