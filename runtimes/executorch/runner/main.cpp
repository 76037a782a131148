// Answers one prompt with a bundle's model.pte, greedily, and prints the answer and its times as JSON: one line a run.

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <string>
#include <system_error>
#include <vector>

#include <executorch/extension/threadpool/threadpool.h>

#include "program.h"
#include "runtime_log.h"

namespace {

using himix::Array;
using himix::InputError;

constexpr char kUsage[] = R"(usage: himix_executorch --model FILE --prompt IDS [--pixels FILE] [options]

Answers a prompt about an image with a HiMix bundle's ExecuTorch program, greedily, and prints one line of JSON a run:
token ids, milliseconds of each stage, peak memory.

  --model FILE          the bundle's model.pte
  --prompt IDS          the prompt's token ids, chat template included: 1,5,7
  --pixels FILE         the image, resized: S x S x 3 bytes, RGB, row by row; without it there is no image
  --stop IDS            token ids that end the answer; they are not part of it
  --position N          rotary position of the first prompt token (default 0; a vanilla model's is behind the image)
  --max-new-tokens N    length of the longest answer (default 64)
  --runs N              answer N times (default 1)
  --threads N           CPU threads (default: the runtime's choice)

Exit codes: 0 done, 2 bad input, 1 anything else (out of memory, a bug); one line on standard error says what.
)";

struct Options {
  std::string model;
  std::string pixels;
  std::vector<int64_t> prompt;
  std::vector<int64_t> stop;
  int64_t position = 0;
  int64_t max_new_tokens = 64;
  int64_t runs = 1;
  int64_t threads = 0;
};

struct Answer {
  std::vector<int64_t> tokens;
  bool stopped = false;
  int32_t vision_tokens = 0;
  double vision_encoder = 0;
  double vision_injector = 0;
  double start = 0;
  double prefill = 0;
  std::vector<double> inter_token;
};

// Milliseconds between calls.
class Clock {
 public:
  double lap() {
    const auto now = std::chrono::steady_clock::now();
    const double elapsed = std::chrono::duration<double, std::milli>(now - then_).count();
    then_ = now;
    return elapsed;
  }

 private:
  std::chrono::steady_clock::time_point then_ = std::chrono::steady_clock::now();
};

int64_t whole_number(const std::string& name, const std::string& text, int64_t least) {
  int64_t value = 0;
  const char* end = text.data() + text.size();
  const auto [stopped, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stopped != end || value < least || value > INT32_MAX) {
    throw InputError(name + ": '" + text + "' is not a whole number of at least " + std::to_string(least));
  }
  return value;
}

std::vector<int64_t> token_ids(const std::string& name, const std::string& text) {
  std::vector<int64_t> ids;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    ids.push_back(whole_number(name, text.substr(begin, end - begin), 0));
    begin = end + 1;
  }
  return ids;
}

Options parse(int count, char** arguments) {
  std::map<std::string, std::string> given;
  for (int i = 1; i < count; i += 2) {
    if (i + 1 == count) throw InputError(std::string(arguments[i]) + " needs a value; --help lists the options");
    given[arguments[i]] = arguments[i + 1];
  }
  Options options;
  for (const auto& [name, text] : given) {
    if (name == "--model") options.model = text;
    else if (name == "--pixels") options.pixels = text;
    else if (name == "--prompt") options.prompt = token_ids(name, text);
    else if (name == "--stop") options.stop = token_ids(name, text);
    else if (name == "--position") options.position = whole_number(name, text, 0);
    else if (name == "--max-new-tokens") options.max_new_tokens = whole_number(name, text, 1);
    else if (name == "--runs") options.runs = whole_number(name, text, 1);
    else if (name == "--threads") options.threads = whole_number(name, text, 1);
    else throw InputError("no option " + name + "; --help lists them");
  }
  if (options.model.empty() || options.prompt.empty()) throw InputError("--model and --prompt are needed; see --help");
  return options;
}

Array<uint8_t> read_pixels(const std::string& path, int32_t size) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) throw InputError(path + ": cannot be read");  // a pipe may not end
  const size_t expected = static_cast<size_t>(size) * static_cast<size_t>(size) * 3;
  const auto found = std::filesystem::file_size(path, error);
  if (error || found != expected) {
    throw InputError(path + ": " + std::to_string(error ? 0 : found) + " bytes; this model takes " +
                     std::to_string(size) + " x " + std::to_string(size) + " x 3 = " + std::to_string(expected));
  }
  Array<uint8_t> pixels{{1, size, size, 3}, std::vector<uint8_t>(expected)};
  std::ifstream file(path, std::ios::binary);
  if (!file.read(reinterpret_cast<char*>(pixels.values.data()), static_cast<std::streamsize>(expected))) {
    throw InputError(path + ": cannot be read");
  }
  return pixels;
}

Answer answer(himix::Program& program, const Options& options, const Array<uint8_t>& pixels) {
  Answer result;
  Clock clock;
  if (!pixels.values.empty()) {
    const auto features = program.encode(pixels);
    result.vision_encoder = clock.lap();
    const auto [key, value] = program.inject(features);
    result.vision_injector = clock.lap();
    program.start(key, value);
    result.start = clock.lap();
    result.vision_tokens = key.shape.at(2);
  }
  for (const int64_t token : options.prompt) {
    if (token >= program.vocabulary()) {
      throw InputError("--prompt: no token " + std::to_string(token) + "; the model has " +
                       std::to_string(program.vocabulary()));
    }
  }
  if (options.position > result.vision_tokens) {
    throw InputError("--position: " + std::to_string(options.position) + " is behind the image's " +
                     std::to_string(result.vision_tokens) + " slots");
  }
  int64_t filled = result.vision_tokens;
  int64_t position = options.position;
  const auto step = [&](const std::vector<int64_t>& tokens) {
    const auto logits = program.step(tokens, filled, position);
    filled += static_cast<int64_t>(tokens.size());
    position += static_cast<int64_t>(tokens.size());
    return std::max_element(logits.values.begin(), logits.values.end()) - logits.values.begin();
  };
  const int64_t room = program.capacity() - filled - static_cast<int64_t>(options.prompt.size());
  if (room < 1) {
    throw InputError("--prompt: image and prompt take " + std::to_string(program.capacity() - room) +
                     " cache slots and the answer one, the model has " + std::to_string(program.capacity()));
  }
  const std::set<int64_t> stop(options.stop.begin(), options.stop.end());
  const auto limit = static_cast<size_t>(std::min(options.max_new_tokens, room));
  clock.lap();
  int64_t token = step(options.prompt);
  result.prefill = clock.lap();
  while (!(result.stopped = stop.count(token) > 0)) {
    result.tokens.push_back(token);
    if (result.tokens.size() == limit) break;
    clock.lap();
    token = step({token});
    result.inter_token.push_back(clock.lap());
  }
  return result;
}

template <typename T>
void print_list(const char* name, const std::vector<T>& values, const char* format) {
  std::printf("\"%s\": [", name);
  for (size_t i = 0; i < values.size(); ++i) {
    if (i > 0) std::printf(", ");
    std::printf(format, values[i]);
  }
  std::printf("], ");
}

// Names as in a session's statistics; times in milliseconds, memory in bytes.
void print(const Answer& answer, const Options& options, double load) {
  struct rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  std::printf("{");
  print_list("token_ids", std::vector<long long>(answer.tokens.begin(), answer.tokens.end()), "%lld");
  std::printf("\"finish_reason\": \"%s\", ", answer.stopped ? "stop" : "length");
  std::printf("\"prompt_tokens\": %zu, \"vision_tokens\": %d, ", options.prompt.size(), answer.vision_tokens);
  std::printf("\"load\": %.3f, \"vision_encoder\": %.3f, \"vision_injector\": %.3f, \"start\": %.3f, ", load,
              answer.vision_encoder, answer.vision_injector, answer.start);
  std::printf("\"prefill\": %.3f, ", answer.prefill);
  print_list("inter_token", answer.inter_token, "%.3f");
  std::printf("\"peak_rss\": %lld}\n", static_cast<long long>(usage.ru_maxrss) * 1024);
  std::fflush(stdout);
}

// The runtime's kernels end the process where a program contradicts itself.
void end_in_one_line(int) {
  constexpr char kLine[] = "himix_executorch: ExecuTorch stopped at a contradiction in the program; is it a bundle's?\n";
  if (write(STDERR_FILENO, kLine, sizeof(kLine) - 1) >= 0) _exit(2);
  _exit(2);
}

void set_threads(int64_t threads) {
  auto* pool = executorch::extension::threadpool::get_threadpool();
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
  // the runtime has no other call that also makes the pool larger
  if (threads > 0 && pool != nullptr) pool->_unsafe_reset_threadpool(static_cast<uint32_t>(threads));
#pragma GCC diagnostic pop
}

}  // namespace

int main(int count, char** arguments) {
  if (count == 2 && (std::string(arguments[1]) == "--help" || std::string(arguments[1]) == "-h")) {
    std::fputs(kUsage, stdout);
    return 0;
  }
  try {
    const Options options = parse(count, arguments);
    himix::keep_messages();
    std::signal(SIGABRT, end_in_one_line);
    set_threads(options.threads);
    Clock clock;
    himix::Program program(options.model);
    const double load = clock.lap();
    const auto pixels = options.pixels.empty() ? Array<uint8_t>{} : read_pixels(options.pixels, program.image_size());
    for (int64_t run = 0; run < options.runs; ++run) print(answer(program, options, pixels), options, load);
  } catch (const InputError& error) {
    std::fprintf(stderr, "himix_executorch: %s\n", error.what());
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "himix_executorch: %s\n", error.what());
    return 1;
  }
  return 0;
}
