// Writing a model under the names of another code base.
#pragma once

#include "fovea/convert.h"

namespace fovea {

// As convert() with options.to other than "fovea". What is written is read again before it is kept: it must be recognised and give the
// same parameters, bit by bit where the type stays.
Conversion convert_to_dialect(const std::string& model, const std::string& out, const ConvertOptions& options);

}  // namespace fovea
