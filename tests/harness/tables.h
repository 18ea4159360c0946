// Sweeps over the kernel tables of this machine, and parameters across them.
#pragma once

#include <vector>

#include "core/param_store.h"
#include "kernels/kernel_table.h"

namespace fovea::harness {

std::vector<const KernelTable*> f32_tables();  // what a user can run: cpu.baseline and faster
std::vector<const KernelTable*> real_tables();  // with the f64 reference, without dual numbers

// Copies every parameter's value by name, converting the element type. Throws when names or shapes differ.
void copy_values(const ParamStore& from, ParamStore& to);

// Draws every parameter and moves each value by a little (float32-representable noise), so that no bias is zero, no
// LayerNorm the identity and no gradient trivially right. The numbers depend on neither element type nor order.
void randomise(ParamStore& store, const Rng& rng, double noise = 0.2);

}  // namespace fovea::harness
