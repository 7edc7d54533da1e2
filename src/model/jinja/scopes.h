// Which names a block hides from its beginning. Jinja decides this when it compiles a template: a name that a
// block assigns before it reads it is the block's own throughout, also for inner blocks and macros that run
// before the assignment; one that is assigned on some branches of an `if` only keeps its outer meaning until
// then.
#pragma once

#include "model/jinja/parser.h"

namespace larder::jinja {

// Fills in every InitialScope of the template.
void ResolveScopes(Template* parsed);

}  // namespace larder::jinja
