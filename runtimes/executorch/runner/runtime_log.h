// ExecuTorch's own messages: kept for the one line that a failure ends with, instead of going to the screen.
#pragma once

#include <string>

namespace himix {

// From here on the runtime's messages are kept. Call it before anything else of the runtime.
void keep_messages();

// ": MESSAGE" with the runtime's last error message, or nothing if there was none.
std::string last_error();

}  // namespace himix
