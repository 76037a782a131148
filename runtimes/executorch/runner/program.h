// A model.pte: its four methods on one set of planned memory, so that `start` and `decoder` see the same KV cache.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <executorch/runtime/executor/method.h>
#include <executorch/runtime/executor/program.h>

#include "input_error.h"

namespace himix {

// A dense array, row by row. Every array that goes in or out of the program is one.
template <typename T>
struct Array {
  std::vector<int32_t> shape;
  std::vector<T> values;
};

class FileLoader;
class HeapAllocator;

// Throws InputError for a file that is not such a program. Not thread-safe: it has one KV cache.
class Program {
 public:
  explicit Program(const std::string& path);
  ~Program();

  // S: the vision encoder takes uint8 (1, S, S, 3), RGB.
  int32_t image_size() const { return image_size_; }

  // Cache slots, vision and text together.
  int32_t capacity() const { return capacity_; }

  // V, the number of tokens.
  int32_t vocabulary() const { return vocabulary_; }

  // uint8 (1, S, S, 3) -> vision features (1, N, d_v).
  Array<float> encode(const Array<uint8_t>& pixels);

  // Vision features (1, N, d_v) -> vision key and value (I, G, N, h).
  std::pair<Array<float>, Array<float>> inject(const Array<float>& features);

  // Vision key and value (I, G, n, h) into the first n slots of the cache.
  void start(const Array<float>& key, const Array<float>& value);

  // `tokens` (T,) behind `filled` slots, the first one at rotary position `position` -> logits (V,) of the last.
  Array<float> step(const std::vector<int64_t>& tokens, int64_t filled, int64_t position);

 private:
  enum Name { kEncoder, kInjector, kStart, kDecoder, kMethods };
  struct Loaded;

  void plan_memory();
  void load(Name name);
  int32_t dimension(Name name, bool output, size_t rank, size_t index) const;
  // What a method gave, if that is `count` arrays of `rank`.
  std::vector<Array<float>> expected(std::vector<Array<float>> outputs, Name name, size_t count, size_t rank) const;
  template <typename... Inputs>
  std::vector<Array<float>> run(Name name, const Inputs&... inputs);

  std::string path_;
  std::unique_ptr<FileLoader> file_;
  std::unique_ptr<executorch::runtime::Program> program_;
  std::vector<std::vector<uint8_t>> arenas_;  // by memory id, as large as the most demanding method needs
  std::unique_ptr<Loaded> methods_[kMethods];
  int32_t image_size_ = 0;
  int32_t capacity_ = 0;
  int32_t vocabulary_ = 0;
};

}  // namespace himix
