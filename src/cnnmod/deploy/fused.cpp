// The operator `mod_block_` on a CPU: pool, score, select, gather, Conv-Block, scale, add.
//
// A MoD block does little arithmetic. Most of its time is spent on reading the feature map once, for the pooling, and
// on starting about twenty operators. In this operator, all threads read the map. One thread then computes the rest of
// an image, on k planes.
//
// The Conv-Block is a program over registers. operator.py describes it.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace {

using at::Tensor;
using Planes = std::vector<float>;

struct Shape {
  int64_t images, channels, height, width;
  bool channels_last;
  int64_t pixels() const { return height * width; }
};

constexpr int kLanes = 16;

float dot(const float* left, const float* right, int64_t count) {
  float sums[kLanes] = {0}, total = 0;
  int64_t at = 0;
  for (; at + kLanes <= count; at += kLanes)
    for (int lane = 0; lane < kLanes; ++lane) sums[lane] += left[at + lane] * right[at + lane];
  for (; at < count; ++at) total += left[at] * right[at];
  for (float sum : sums) total += sum;
  return total;
}

float total(const float* values, int64_t count) {
  float sums[kLanes] = {0}, total = 0;
  int64_t at = 0;
  for (; at + kLanes <= count; at += kLanes)
    for (int lane = 0; lane < kLanes; ++lane) sums[lane] += values[at + lane];
  for (; at < count; ++at) total += values[at];
  for (float sum : sums) total += sum;
  return total;
}

// Return the means of the first `pool` channels, (images, pool). Partial sums of 32 pixels keep the rounding small.
std::vector<float> pooled(const float* x, const Shape& shape, int64_t pool) {
  std::vector<float> mean(shape.images * pool);
  const int64_t pixels = shape.pixels();
  const float scale = 1.0f / static_cast<float>(pixels);
  if (!shape.channels_last) {
    at::parallel_for(0, shape.images * pool, 1 + 16384 / pixels, [&](int64_t begin, int64_t end) {
      for (int64_t number = begin; number < end; ++number) {
        const float* plane = x + ((number / pool) * shape.channels + number % pool) * pixels;
        mean[number] = total(plane, pixels) * scale;
      }
    });
    return mean;
  }
  // Split each image into strips of pixels, one for each thread that works on it.
  const int64_t strips = std::max<int64_t>(1, at::get_num_threads() / shape.images);
  std::vector<float> sums(shape.images * strips * pool);
  at::parallel_for(0, shape.images * strips, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> partial(pool);
    for (int64_t number = begin; number < end; ++number) {
      const float* image = x + (number / strips) * shape.channels * pixels;
      float* sum = sums.data() + number * pool;
      const int64_t first = number % strips * pixels / strips, last = (number % strips + 1) * pixels / strips;
      for (int64_t start = first; start < last; start += 32) {
        std::fill(partial.begin(), partial.end(), 0.0f);
        for (int64_t pixel = start; pixel < std::min(start + 32, last); ++pixel) {
          const float* row = image + pixel * shape.channels;
          for (int64_t channel = 0; channel < pool; ++channel) partial[channel] += row[channel];
        }
        for (int64_t channel = 0; channel < pool; ++channel) sum[channel] += partial[channel];
      }
    }
  });
  for (int64_t image = 0; image < shape.images; ++image)
    for (int64_t channel = 0; channel < pool; ++channel) {
      float whole = 0;
      for (int64_t strip = 0; strip < strips; ++strip) whole += sums[(image * strips + strip) * pool + channel];
      mean[image * pool + channel] = whole * scale;
    }
  return mean;
}

// Return `in` (images, columns) times the transposed weight (rows, columns). Each thread reads its share of the weight.
std::vector<float> multiplied(const std::vector<float>& in, const Tensor& weight, int64_t images, bool relu) {
  const int64_t rows = weight.size(0), columns = weight.size(1);
  const float* w = weight.data_ptr<float>();
  std::vector<float> out(images * rows);
  at::parallel_for(0, rows, 1 + 16384 / columns, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      for (int64_t image = 0; image < images; ++image) {
        const float value = dot(in.data() + image * columns, w + row * columns, columns);
        out[image * rows + row] = relu && value < 0 ? 0 : value;
      }
  });
  return out;
}

// Return the channels of the k highest logits. Ties select the lower channel. NaN is highest, as in torch.topk.
std::vector<int64_t> highest(const float* logits, int64_t pool, int64_t k, bool by_index) {
  std::vector<int64_t> order(pool);
  std::iota(order.begin(), order.end(), 0);
  auto before = [&](int64_t first, int64_t second) {
    const float a = logits[first], b = logits[second];
    if (a > b || (std::isnan(a) && !std::isnan(b))) return true;
    if (b > a || (std::isnan(b) && !std::isnan(a))) return false;
    return first < second;
  };
  std::partial_sort(order.begin(), order.begin() + k, order.end(), before);
  order.resize(k);
  if (by_index) std::sort(order.begin(), order.end());
  return order;
}

void convolve(const Planes& in, Planes& out, const Tensor& weight, const Tensor& bias, const Shape& shape,
              int64_t padding, int64_t dilation, int64_t groups) {
  const int64_t outputs = weight.size(0), inputs = weight.size(1), pixels = shape.pixels();
  const int64_t rows = weight.size(2), columns = weight.size(3), height = shape.height, width = shape.width;
  const float* w = weight.data_ptr<float>();
  const float* b = bias.data_ptr<float>();
  out.resize(outputs * pixels);
  for (int64_t o = 0; o < outputs; ++o) {
    float* target = out.data() + o * pixels;
    std::fill(target, target + pixels, b[o]);
    for (int64_t i = 0; i < inputs; ++i) {
      const float* source = in.data() + (o / (outputs / groups) * inputs + i) * pixels;
      for (int64_t row = 0; row < rows; ++row)
        for (int64_t column = 0; column < columns; ++column) {
          const float factor = w[((o * inputs + i) * rows + row) * columns + column];
          const int64_t down = row * dilation - padding, right = column * dilation - padding;
          if (down == 0 && right == 0) {
            for (int64_t pixel = 0; pixel < pixels; ++pixel) target[pixel] += factor * source[pixel];
            continue;
          }
          const int64_t left = std::max<int64_t>(0, -right), stop = std::min(width, width - right);
          for (int64_t y = std::max<int64_t>(0, -down); y < std::min(height, height - down); ++y) {
            float* to = target + y * width;
            const float* from = source + (y + down) * width + right;
            for (int64_t column_at = left; column_at < stop; ++column_at) to[column_at] += factor * from[column_at];
          }
        }
    }
  }
}

// Return a weight as contiguous float32. The loops do not check its size, and a user may have replaced the weight.
Tensor checked(const Tensor& weight, at::IntArrayRef size) {
  TORCH_CHECK(weight.is_cpu() && weight.is_floating_point() && weight.sizes() == size, "mod_block_: a weight of ",
              weight.sizes(), " on ", weight.device(), " was given instead of one of ", size, " on the CPU");
  if (weight.scalar_type() == at::kFloat && weight.is_contiguous()) return weight;  // the calls below are slow
  return weight.to(at::kFloat).contiguous();
}

void mod_block_(Tensor& x, const Tensor& reduce_weight, const Tensor& expand_weight, const std::optional<Tensor>& gain,
                at::TensorList weights, at::TensorList biases, at::IntArrayRef program,
                int64_t registers, int64_t k, bool by_index, int64_t start) {
  TORCH_CHECK(x.scalar_type() == at::kFloat && x.dim() == 4 && x.size(2) * x.size(3) > 0 &&
                  (x.is_contiguous() || x.is_contiguous(at::MemoryFormat::ChannelsLast)),
              "mod_block_ takes float32 images in a contiguous memory format");
  const Shape shape{x.size(0), x.size(1), x.size(2), x.size(3), !x.is_contiguous()};
  float* data = x.data_ptr<float>();
  const int64_t pixels = shape.pixels(), hidden_units = reduce_weight.size(0), pool = reduce_weight.size(-1);
  TORCH_CHECK(hidden_units > 0 && 0 < k && k <= pool && pool <= shape.channels && 0 <= start &&
                  start + k <= shape.channels,
              "mod_block_: ", k, " of ", pool, " candidates of ", shape.channels, " channels cannot be selected");
  const Tensor reduce = checked(reduce_weight, {hidden_units, pool});
  const Tensor expand = checked(expand_weight, {pool, hidden_units});
  const Tensor gain_values = gain ? checked(*gain, {k}) : Tensor();
  const float* gains = gain ? gain_values.data_ptr<float>() : nullptr;
  std::vector<Tensor> kernels, offsets;
  std::vector<int64_t> channels(registers, k);  // the number of channels in each register
  for (size_t at = 0; at < program.size(); at += 7) {
    const int64_t *step = program.data() + at, inputs = channels[step[2]];
    channels[step[1]] = inputs;
    if (step[0] == 2) TORCH_CHECK(inputs == channels[step[3]], "mod_block_: a sum of different numbers of channels");
    if (step[0] != 0) continue;
    const Tensor& weight = weights[step[3]];
    const int64_t outputs = weight.size(0), same = 2 * step[4] / step[5] + 1, groups = step[6];
    kernels.push_back(checked(weight, {outputs, inputs / groups, same, same}));
    const Tensor& bias = biases[step[3]];  // empty without a bias: torch.jit.trace has no lists of optionals
    offsets.push_back(bias.numel() ? checked(bias, {outputs}) : at::zeros({outputs}, at::kFloat));
    TORCH_CHECK(outputs % groups == 0, "mod_block_: ", outputs, " channels cannot be divided into ", groups, " groups");
    channels[step[1]] = outputs;
  }
  TORCH_CHECK(program.empty() || channels[program[program.size() - 6]] == k,
              "mod_block_: the result does not have k channels");
  const std::vector<float> hidden = multiplied(pooled(data, shape, pool), reduce, shape.images, /*relu=*/true);
  const std::vector<float> logits = multiplied(hidden, expand, shape.images, /*relu=*/false);
  at::parallel_for(0, shape.images, 1, [&](int64_t begin, int64_t end) {
    std::vector<Planes> planes(registers);
    for (int64_t image = begin; image < end; ++image) {
      float* map = data + image * shape.channels * pixels;
      const float* scores = logits.data() + image * pool;
      const std::vector<int64_t> selected = highest(scores, pool, k, by_index);
      planes[0].resize(k * pixels);
      float* input = planes[0].data();
      if (shape.channels_last) {
        for (int64_t pixel = 0; pixel < pixels; ++pixel)
          for (int64_t place = 0; place < k; ++place)
            input[place * pixels + pixel] = map[pixel * shape.channels + selected[place]];
      } else {
        for (int64_t place = 0; place < k; ++place)
          std::copy_n(map + selected[place] * pixels, pixels, input + place * pixels);
      }
      int64_t result = 0;
      for (size_t at = 0; at < program.size(); at += 7) {
        const int64_t *step = program.data() + at, source = step[2];
        result = step[1];
        Planes& target = planes[result];
        if (step[0] == 0) {
          convolve(planes[source], target, kernels[step[3]], offsets[step[3]], shape, step[4], step[5], step[6]);
          continue;
        }
        const Planes& operand = planes[source];
        target.resize(operand.size());
        if (step[0] == 1)
          for (size_t number = 0; number < operand.size(); ++number)
            target[number] = operand[number] < 0 ? 0 : operand[number];
        else if (step[0] == 3)
          for (size_t number = 0; number < operand.size(); ++number)
            target[number] = operand[number] < 0 ? 0 : operand[number] > 6 ? 6 : operand[number];
        else
          for (size_t number = 0; number < operand.size(); ++number)
            target[number] = operand[number] + planes[step[3]][number];
      }
      std::vector<float> factors(k);
      for (int64_t place = 0; place < k; ++place)
        factors[place] = (gains ? gains[place] : 1.0f) / (1.0f + std::exp(-scores[selected[place]]));
      const float* output = planes[result].data();
      if (shape.channels_last) {
        for (int64_t pixel = 0; pixel < pixels; ++pixel) {
          float* to = map + pixel * shape.channels + start;
          for (int64_t place = 0; place < k; ++place) to[place] += factors[place] * output[place * pixels + pixel];
        }
      } else {
        for (int64_t place = 0; place < k; ++place) {
          float* to = map + (start + place) * pixels;
          for (int64_t pixel = 0; pixel < pixels; ++pixel) to[pixel] += factors[place] * output[place * pixels + pixel];
        }
      }
    }
  });
}

}  // namespace

TORCH_LIBRARY_IMPL(cnnmod, CPU, library) { library.impl("mod_block_", &mod_block_); }
