#include "kernels/cpu/tables.h"
#include "kernels/kernel_table.h"
#include "kernels/reference/tables.h"

namespace fovea {

namespace {

std::vector<const KernelTable*> runnable_tables() {
  std::vector<const KernelTable*> tables = {&reference_table(), &reference_dual_table()};
  for (const KernelTable* t : cpu_tables()) tables.push_back(t);
  return tables;
}

}  // namespace

const KernelTable& kernel_table(std::string_view name) {
  const auto tables = runnable_tables();
  if (name == "auto") return *tables.back();
  for (const KernelTable* t : tables)
    if (t->name == name) return *t;
  fail("there are no kernels '{}' on this machine; choose auto or one of: {}", name, fmt::join(kernel_table_names(), ", "));
}

std::vector<std::string_view> kernel_table_names() {
  std::vector<std::string_view> names;
  for (const KernelTable* t : runnable_tables()) names.push_back(t->name);
  return names;
}

}  // namespace fovea
