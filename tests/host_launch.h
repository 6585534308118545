// Run a kernel of mod_block.cu on the CPU, one CTA after the other. Shared memory is filled with NaN before each.

static void run_ctas(void (*kernel)(const Arguments&), const Arguments& a, const int* grid, int threads,
                     int shared_bytes, bool backward) {
  std::vector<float> shared(shared_bytes / 4);
  const int ctas = grid[0] * grid[1] * grid[2];
  for (int number = 0; number < ctas; ++number) {
    const int at = backward ? ctas - 1 - number : number;
    std::fill(shared.begin(), shared.end(), std::numeric_limits<float>::quiet_NaN());
    cta = {at % grid[0], at / grid[0] % grid[1], at / grid[0] / grid[1], threads, shared.data(), backward};
    kernel(a);
  }
}

extern "C" int run_kernel(const char* name, const Arguments* a, int size, const int* grid, int threads,
                          int shared_bytes, bool backward) {
  if (size != sizeof(Arguments)) return 1;
  void (*kernel)(const Arguments&) = nullptr;
  if (!std::strcmp(name, "mod_block")) kernel = mod_block;
  if (!std::strcmp(name, "pool")) kernel = pool;
  if (!std::strcmp(name, "select_channels")) kernel = select_channels;
  if (!std::strcmp(name, "tiles")) kernel = tiles;
  if (!std::strcmp(name, "add_result")) kernel = add_result;
  if (!kernel) return 2;
  run_ctas(kernel, *a, grid, threads, shared_bytes, backward);
  return 0;
}
