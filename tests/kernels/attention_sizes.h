// What the arguments of every test case of grouped attention begin with.
#pragma once

#include <cmath>

#include "kernels/kernel_table.h"

namespace fovea {

template <class Case>
void set_sizes(const Case& c, GroupedAttentionArgs& a) {
  a.groups = &c.groups;
  a.batch = c.batch;
  a.heads = c.heads;
  a.head_dim = c.head_dim;
  a.queries = c.queries;
  a.keys = c.keys;
  a.scale = 1 / std::sqrt(static_cast<double>(c.head_dim));
}

}  // namespace fovea
