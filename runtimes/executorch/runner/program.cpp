#include "program.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <numeric>
#include <utility>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <executorch/runtime/core/exec_aten/exec_aten.h>
#include <executorch/runtime/executor/memory_manager.h>

#include "runtime_log.h"

namespace himix {

namespace et = executorch::runtime;
using executorch::aten::ScalarType;
using executorch::aten::Tensor;
using executorch::aten::TensorImpl;

namespace {

const char* const kNames[] = {"vision_encoder", "vision_injector", "start", "decoder"};
constexpr int32_t kLargest = 1 << 24;  // no dimension of a real model is larger

template <typename T>
constexpr ScalarType kType = ScalarType::Float;
template <>
constexpr ScalarType kType<uint8_t> = ScalarType::Byte;
template <>
constexpr ScalarType kType<int64_t> = ScalarType::Long;

// A tensor on an array's memory. The runtime only reads its inputs.
template <typename T>
class View {
 public:
  explicit View(const Array<T>& array)
      : sizes_(array.shape.begin(), array.shape.end()),
        order_(sizes_.size()),
        strides_(sizes_.size(), 1),
        tensor_(kType<T>, static_cast<ssize_t>(sizes_.size()), sizes_.data(), const_cast<T*>(array.values.data()),
                order_.data(), strides_.data()) {
    std::iota(order_.begin(), order_.end(), 0);
    for (size_t i = sizes_.size() - 1; i > 0; --i) strides_[i - 1] = strides_[i] * sizes_[i];
  }
  View(const View&) = delete;

  et::EValue value() { return et::EValue(Tensor(&tensor_)); }

 private:
  std::vector<executorch::aten::SizesType> sizes_;
  std::vector<executorch::aten::DimOrderType> order_;
  std::vector<executorch::aten::StridesType> strides_;
  TensorImpl tensor_;
};

}  // namespace

// The file, mapped: the weights that XNNPACK packs are read once and their pages can go.
class FileLoader final : public et::DataLoader {
 public:
  explicit FileLoader(const std::string& path) {
    const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // a pipe would wait
    struct stat info{};
    if (file < 0 || fstat(file, &info) != 0) throw InputError(path + ": " + std::strerror(errno));
    size_ = static_cast<size_t>(info.st_size);
    void* mapped = S_ISREG(info.st_mode) && size_ > 0 ? mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file, 0) : MAP_FAILED;
    close(file);
    if (mapped == MAP_FAILED) throw InputError(path + ": not an ExecuTorch program; give a bundle's model.pte");
    data_ = static_cast<const uint8_t*>(mapped);
  }
  ~FileLoader() override { munmap(const_cast<uint8_t*>(data_), size_); }

  et::Result<et::FreeableBuffer> load(size_t offset, size_t size, const SegmentInfo&) const override {
    if (!within(offset, size)) return et::Error::InvalidExternalData;
    return et::FreeableBuffer(data_ + offset, size, nullptr);
  }
  et::Error load_into(size_t offset, size_t size, const SegmentInfo&, void* buffer) const override {
    if (!within(offset, size)) return et::Error::InvalidExternalData;
    std::memcpy(buffer, data_ + offset, size);
    return et::Error::Ok;
  }
  et::Result<size_t> size() const override { return size_; }

 private:
  bool within(size_t offset, size_t size) const { return offset <= size_ && size <= size_ - offset; }

  const uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

// What a method keeps for as long as it lives; how much that is the program does not say.
class HeapAllocator final : public et::MemoryAllocator {
 public:
  HeapAllocator() : MemoryAllocator(0, nullptr) {}

  void* allocate(size_t size, size_t alignment) override {
    if (!isPowerOf2(alignment) || size > SIZE_MAX - alignment) return nullptr;
    blocks_.emplace_back(new uint8_t[size + alignment]);
    return alignPointer(blocks_.back().get(), alignment);
  }

 private:
  std::vector<std::unique_ptr<uint8_t[]>> blocks_;
};

struct Program::Loaded {
  explicit Loaded(std::vector<et::Span<uint8_t>> memory)
      : spans(std::move(memory)), planned({spans.data(), spans.size()}), manager(&kept, &planned) {}

  HeapAllocator kept;
  std::vector<et::Span<uint8_t>> spans;
  et::HierarchicalAllocator planned;
  et::MemoryManager manager;
  std::unique_ptr<et::Method> method;
};

Program::Program(const std::string& path) : path_(path), file_(std::make_unique<FileLoader>(path)) {
  auto program = et::Program::load(file_.get(), et::Program::Verification::InternalConsistency);
  if (!program.ok()) throw InputError(path + ": not an ExecuTorch program; give a bundle's model.pte" + last_error());
  program_ = std::make_unique<et::Program>(std::move(*program));
  if (program_->method_meta("kept").ok()) {  // as only such a model's program has
    throw InputError(path_ + ": does not take a model whose pictures are tiles in its text (pillow-tiles) yet; " +
                     "it takes pictures as keys and values in front of the text");
  }
  plan_memory();
  for (int name = 0; name < kMethods; ++name) load(static_cast<Name>(name));
  // a dimension that varies is given as its largest value; a prompt leaves one slot for the answer
  image_size_ = dimension(kEncoder, false, 4, 1);
  capacity_ = dimension(kDecoder, false, 2, 1) + 1;
  vocabulary_ = dimension(kDecoder, true, 2, 1);
}

// The file says how much memory it wants; more than the machine has is refused before any of it is taken.
void Program::plan_memory() {
  std::vector<size_t> sizes;
  for (const char* name : kNames) {
    auto meta = program_->method_meta(name);
    if (!meta.ok()) throw InputError(path_ + ": no method " + name + "; give the model.pte of a HiMix bundle");
    sizes.resize(std::max(sizes.size(), meta->num_memory_planned_buffers()));
    for (size_t id = 0; id < meta->num_memory_planned_buffers(); ++id) {
      const auto bytes = meta->memory_planned_buffer_size(id);
      if (!bytes.ok() || *bytes < 0) throw InputError(path_ + ": " + name + " is damaged: it plans no memory");
      sizes[id] = std::max(sizes[id], static_cast<size_t>(*bytes));
    }
  }
  size_t left = static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<size_t>(sysconf(_SC_PAGESIZE));
  for (const size_t bytes : sizes) {
    if (bytes > left) throw InputError(path_ + ": needs more memory than this machine has");
    left -= bytes;
    arenas_.emplace_back(bytes);
  }
}

int32_t Program::dimension(Name name, bool output, size_t rank, size_t index) const {
  const auto meta = program_->method_meta(kNames[name]);
  const auto tensor = output ? meta->output_tensor_meta(0) : meta->input_tensor_meta(0);
  if (!tensor.ok() || tensor->sizes().size() != rank || tensor->sizes()[index] < 1 ||
      tensor->sizes()[index] > kLargest) {
    throw InputError(path_ + ": " + kNames[name] + " takes or gives something else than a HiMix bundle's");
  }
  return tensor->sizes()[index];
}

Program::~Program() = default;

void Program::load(Name name) {
  const auto meta = program_->method_meta(kNames[name]);
  std::vector<et::Span<uint8_t>> spans;
  for (size_t id = 0; id < meta->num_memory_planned_buffers(); ++id) {
    spans.emplace_back(arenas_[id].data(), static_cast<size_t>(meta->memory_planned_buffer_size(id).get()));
  }
  methods_[name] = std::make_unique<Loaded>(std::move(spans));
  auto method = program_->load_method(kNames[name], &methods_[name]->manager);
  if (!method.ok()) throw InputError(path_ + ": ExecuTorch cannot load " + kNames[name] + last_error());
  methods_[name]->method = std::make_unique<et::Method>(std::move(*method));
}

template <typename... Inputs>
std::vector<Array<float>> Program::run(Name name, const Inputs&... inputs) {
  et::Method& method = *methods_[name]->method;
  const auto check = [&](et::Error error) {
    if (error != et::Error::Ok) throw InputError(path_ + ": " + kNames[name] + " failed" + last_error());
  };
  size_t index = 0;
  (check(method.set_input(View<typename decltype(inputs.values)::value_type>(inputs).value(), index++)), ...);
  check(method.execute());
  // the memory of an output is the next method's too
  std::vector<Array<float>> outputs;
  for (size_t i = 0; i < method.outputs_size(); ++i) {
    const Tensor& tensor = method.get_output(i).toTensor();
    if (tensor.scalar_type() != ScalarType::Float) check(et::Error::InvalidType);
    const float* data = tensor.const_data_ptr<float>();
    outputs.push_back({{tensor.sizes().begin(), tensor.sizes().end()}, {data, data + tensor.numel()}});
  }
  return outputs;
}

std::vector<Array<float>> Program::expected(std::vector<Array<float>> outputs, Name name, size_t count,
                                            size_t rank) const {
  bool good = outputs.size() == count;
  for (const auto& output : outputs) good = good && output.shape.size() == rank && !output.values.empty();
  if (!good) throw InputError(path_ + ": " + kNames[name] + " gives something else than a HiMix bundle's");
  return outputs;
}

Array<float> Program::encode(const Array<uint8_t>& pixels) {
  return std::move(expected(run(kEncoder, pixels), kEncoder, 1, 3)[0]);
}

std::pair<Array<float>, Array<float>> Program::inject(const Array<float>& features) {
  auto outputs = expected(run(kInjector, features), kInjector, 2, 4);
  return {std::move(outputs[0]), std::move(outputs[1])};
}

void Program::start(const Array<float>& key, const Array<float>& value) { run(kStart, key, value); }

Array<float> Program::step(const std::vector<int64_t>& tokens, int64_t filled, int64_t position) {
  const auto count = static_cast<int32_t>(tokens.size());
  Array<int64_t> positions{{1, count}, std::vector<int64_t>(tokens.size())};
  std::iota(positions.values.begin(), positions.values.end(), position);
  auto outputs = run(kDecoder, Array<int64_t>{{1, count}, tokens}, Array<int64_t>{{1}, {filled}}, positions);
  return std::move(expected(std::move(outputs), kDecoder, 1, 2)[0]);
}

}  // namespace himix
