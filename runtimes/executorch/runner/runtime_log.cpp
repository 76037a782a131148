#include "runtime_log.h"

#include <mutex>

#include <fcntl.h>
#include <unistd.h>

#include <executorch/runtime/platform/platform.h>
#include <executorch/runtime/platform/runtime.h>

namespace himix {

namespace {

std::mutex mutex;
std::string last;

void keep(et_timestamp_t, et_pal_log_level_t level, const char*, const char*, size_t, const char* text, size_t size) {
  if (level != kError && level != kFatal) return;
  const std::lock_guard<std::mutex> lock(mutex);
  if (last.empty()) last.assign(text, size);  // the first is the cause
}

}  // namespace

void keep_messages() {
  executorch::runtime::runtime_init();
  // the wheel's library has registered a writer of its own, which reports that it is replaced
  const int screen = dup(STDERR_FILENO);
  const int nothing = open("/dev/null", O_WRONLY | O_CLOEXEC);
  dup2(nothing, STDERR_FILENO);
  executorch::runtime::register_pal(executorch::runtime::PalImpl::create(keep, __FILE__));
  dup2(screen, STDERR_FILENO);
  close(screen);
  close(nothing);
}

std::string last_error() {
  const std::lock_guard<std::mutex> lock(mutex);
  std::string line = last.substr(0, last.find('\n'));
  for (char& c : line) {
    if (c < ' ' || c > '~') c = '?';  // a message may quote the file's bytes
  }
  return line.empty() ? "" : ": " + line;
}

}  // namespace himix
