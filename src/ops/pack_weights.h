// The weights in the form that matrix products want, for inference.
#pragma once

#include "core/param_source.h"
#include "kernels/kernel_table.h"

namespace fovea {

// Packs the weights of all affine maps and convolutions into the GEMM's own form; ParamStore::drop_packed undoes it. With `type`
// their products are in bf16, or in int8 but for the outermost layers', which are in bf16 then.
void pack_weights(ParamStore& params, Context& ctx, ProductType type = ProductType::kOwn);

// Fills a model that only infers (ParamStore::allocate_for_inference): every parameter comes from `source` once, in the order of the
// layers, and what is read packed alone is never in memory as a whole in its plain form.
void pack_from(ParamSource& source, ParamStore& params, Context& ctx, ProductType type = ProductType::kOwn);

// The weights that are packed behind these and multiply after them; none behind the last.
PackedMatrix weights_after(const Param&);

}  // namespace fovea
