#include "attention/attention.h"

namespace fovea {

std::string TokenGrid::str() const { return fmt::format("{} x ({} + {}x{})", batch, prefix, height, width); }

std::vector<std::string> Attention::unsupported(const TokenGrid&) const { return {}; }

}  // namespace fovea
