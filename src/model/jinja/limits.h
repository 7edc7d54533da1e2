// What a template may use. Templates come out of model files, so they are as untrusted as a request; each
// limit is far above what any published template needs and answers with kExhausted.
#pragma once

#include <cstddef>
#include <cstdint>

namespace larder::jinja {

inline constexpr size_t kMaxSourceBytes = size_t{512} << 10;  // published templates have up to 20 KB
inline constexpr size_t kMaxNames = 2048;                     // different variables of a template
inline constexpr size_t kMaxArguments = 256;                  // of one macro or call, as written
inline constexpr int kMaxParseDepth = 100;                    // nested parentheses, lists, statements
inline constexpr int kMaxTreeDepth = 300;                   // also counts long chains such as a + b + c + ...
inline constexpr int kMaxEvalDepth = 800;                   // nested evaluations, macro calls included
inline constexpr int kMaxValueDepth = 200;                  // lists in lists, objects in objects
inline constexpr size_t kMaxTextBytes = size_t{64} << 20;   // one string, the output included
inline constexpr size_t kMaxKeyBytes = size_t{1} << 20;     // one key of a dict
inline constexpr size_t kMaxLiveBytes = size_t{256} << 20;  // all values of one rendering together
inline constexpr uint64_t kMaxWork = uint64_t{16}
                                     << 20;    // evaluation steps, plus one for every 256 bytes touched
inline constexpr int64_t kMaxRange = 100'000;  // range(), as in Jinja's own sandbox

}  // namespace larder::jinja
