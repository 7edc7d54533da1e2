// What a configuration of the store trusts, as sentences for the log at start, and what it must not do.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"

namespace larder {

struct TrustedPlaces {
  std::string disk;       // folder; "": none
  std::string redis_url;  // "": none; its password is not shown
  bool redis_tls_verify = true;
  bool store_key = false;
};

// Names are hashes of inputs, not of what was computed: who can write to a place can plant keys and values
// there, unless they are sealed. Who can read plain ones can recover texts. Empty without disk and Redis.
std::vector<std::string> TrustSentences(const TrustedPlaces& places);

// kInvalid: the master key lies in the directory that it seals, links followed, so that a copy of the one is
// a copy of both. Either may be "": none.
Status CheckKeyIsOutside(const std::string& store_key_file, const std::string& directory);

}  // namespace larder
