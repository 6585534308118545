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
// This file has no threads of its own. threads.cuh, which precedes it, defines `each`, `dot_products` and `count_if`:
// they distribute a loop over the threads of a CTA and end with a barrier. The tests compile the file for the CPU with
// loops instead.

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

// A loop over some channels of some pixels, along contiguous memory.
template <class Body>
DEVICE void each_value(const Arguments& a, int channels, int pixels, Body body) {
  each(channels * pixels, [&](int i) {
    if (a.channels_last) body(i % channels, i / channels);
    else body(i / pixels, i % pixels);
  });
}

// Sum the pixels first, first + 1, …, last - 1 of some channels. `partial` has room for all threads or all channels.
DEVICE void sum_pixels(const Arguments& a, const Element* image, int channel, int channels, int first, int last,
                       float* partial, float* sums) {
  const int lanes = channels < threads() ? threads() / channels : 1;
  each_value(a, channels, lanes, [&](int at, int lane) {
    float sum = 0;
    for (int pixel = first + lane; pixel < last; pixel += lanes)
      sum += to_float(image[position(a, channel + at, pixel)]);
    partial[lane * channels + at] = sum;
  });
  each(channels, [&](int at) {
    float sum = 0;
    for (int lane = 0; lane < lanes; ++lane) sum += partial[lane * channels + at];
    sums[at] = sum;
  });
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
  s.key = reinterpret_cast<unsigned*>(s.logit + a.pool);
  s.list = reinterpret_cast<int*>(s.key + a.pool);
  s.order = s.list + a.pool;
  s.counter = s.order + a.k;
  s.partial = reinterpret_cast<float*>(s.counter + 1);
  return s;
}

// Write the channels that can be selected to `list`, and return their number. Few channels are all listed. Of many
// channels, those with the k highest keys are listed: the k-th key is found bit by bit, and so is the last channel that
// is selected among those with this key.
DEVICE int list_channels(const Arguments& a, const Scratch& s) {
  if (a.pool <= ALL_PAIRS) {
    each(a.pool, [&](int channel) { s.list[channel] = channel; });
    return a.pool;
  }
  unsigned lowest = 0;
  for (int bit = 31; bit >= 0; --bit) {
    const unsigned trial = lowest | 1u << bit;
    if (count_if(a.pool, [&](int channel) { return s.key[channel] >= trial; }) >= a.k) lowest = trial;
  }
  const int tied = a.k - count_if(a.pool, [&](int channel) { return s.key[channel] > lowest; });
  int last = 0;
  for (int bit = 30; bit >= 0; --bit) {
    const int trial = last | 1 << bit;
    if (trial >= a.pool) continue;
    if (count_if(a.pool, [&](int channel) { return s.key[channel] == lowest && channel < trial; }) < tied) last = trial;
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
  dot_products(
      a.hidden, a.pool, [&](int unit, int channel) { return to_float(a.reduce[unit * a.pool + channel]) * s.mean[channel]; },
      [&](int unit, float sum) { s.hidden[unit] = sum < 0 ? 0 : sum; });
  dot_products(
      a.pool, a.hidden, [&](int channel, int unit) { return to_float(a.expand[channel * a.hidden + unit]) * s.hidden[unit]; },
      [&](int channel, float sum) {
        s.logit[channel] = sum;
        s.key[channel] = rank_key(sum);
      });
  const int listed = list_channels(a, s);
  each(listed, [&](int at) {
    const int channel = s.list[at];
    int rank = 0;
    for (int other = 0; other < listed; ++other) {
      const int rival = s.list[other];
      rank += s.key[rival] > s.key[channel] || (s.key[rival] == s.key[channel] && rival < channel);
    }
    if (rank < a.k) s.order[rank] = channel;
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

// The mean of each candidate of an image: from the sums of `pool`, or from the image.
DEVICE void find_means(const Arguments& a, int image, const Scratch& s) {
  const float scale = 1.0f / pixels_of(a);
  if (!a.sums) sum_pixels(a, image_of(a, image), 0, a.pool, 0, pixels_of(a), s.partial, s.mean);
  each(a.pool, [&](int channel) {
    float sum = a.sums ? 0 : s.mean[channel];
    if (a.sums)
      for (int strip = 0; strip < a.strips; ++strip)
        sum += a.sums[(static_cast<long long>(image) * a.strips + strip) * a.pool + channel];
    s.mean[channel] = sum * scale;
  });
}

DEVICE void convolve(const Step& step, float* planes, int rows, int width) {
  const int area = rows * width, inputs = step.inputs / step.groups, size = step.size;
  each(step.outputs * area, [&](int i) {
    const int output = i / area, pixel = i % area, y = pixel / width, x = pixel % width;
    const int group = output / (step.outputs / step.groups);
    const float* source = planes + (step.source + group * inputs) * area;
    const Element* weight = step.weight + static_cast<long long>(output) * inputs * size * size;
    float sum = step.bias ? to_float(step.bias[output]) : 0;
    if (size == 1) {
      for (int input = 0; input < inputs; ++input) sum += to_float(weight[input]) * source[input * area + pixel];
    } else {
      for (int input = 0; input < inputs; ++input)
        for (int row = 0; row < size; ++row) {
          const int from_y = y + row * step.dilation - step.padding;
          if (from_y < 0 || from_y >= rows) continue;
          for (int column = 0; column < size; ++column) {
            const int from_x = x + column * step.dilation - step.padding;
            if (from_x < 0 || from_x >= width) continue;
            const int tap = row * size + column;
            const int at = step.weight_last ? tap * inputs + input : input * size * size + tap;
            sum += to_float(weight[at]) * source[input * area + from_y * width + from_x];
          }
        }
    }
    planes[(step.target + output) * area + pixel] = sum;
  });
}

// Gather the selected channels of some rows into register 0, and run the Conv-Block.
DEVICE void run_conv_block(const Arguments& a, const Element* image, const int* index, int first_row, int rows,
                           float* planes) {
  const int area = rows * a.width;
  each_value(a, a.k, area, [&](int place, int pixel) {
    planes[place * area + pixel] = to_float(image[position(a, index[place], first_row * a.width + pixel)]);
  });
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

DEVICE void add_to(const Arguments& a, Element* image, int place, int channel, int pixel, float value) {
  Element& target = image[position(a, a.start < 0 ? channel : a.start + place, pixel)];
  target = from_float(to_float(target) + value);
}

// One CTA for each image.
KERNEL(mod_block) {
  SHARED(shared);
  const int image = block_x(), area = pixels_of(a);
  float *score = shared, *planes = shared + 2 * a.k;
  int* index = reinterpret_cast<int*>(shared + a.k);
  const Scratch scratch = scratch_at(a, planes);
  find_means(a, image, scratch);
  select(a, scratch, score, index);
  run_conv_block(a, image_of(a, image), index, 0, a.height, planes);
  each_value(a, a.k, area, [&](int place, int pixel) {
    const float value = score[place] * planes[(a.output + place) * area + pixel];
    add_to(a, image_of(a, image), place, index[place], pixel, value);
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
  each(a.k * (last - first) * a.width, [&](int i) {
    const int place = i / ((last - first) * a.width), pixel = i % ((last - first) * a.width);
    const float value = a.score[at + place] * shared[(a.output + place) * area + skipped + pixel];
    a.result[(at + place) * pixels + first * a.width + pixel] = value;
  });
}

// One CTA for each image and tile of rows.
KERNEL(add_result) {
  const int image = block_x(), first = block_y() * a.tile_rows, pixels = pixels_of(a);
  const int last = first + a.tile_rows < a.height ? first + a.tile_rows : a.height;
  const long long at = static_cast<long long>(image) * a.k;
  each_value(a, a.k, (last - first) * a.width, [&](int place, int pixel) {
    pixel += first * a.width;
    add_to(a, image_of(a, image), place, a.index[at + place], pixel, a.result[(at + place) * pixels + pixel]);
  });
}
