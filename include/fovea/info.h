// What there is: models, attentions, data sets, kernels.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace fovea {

struct ModelListing {
  std::string name, summary, attention;
  int64_t parameters = 0, height = 0, width = 0;
  double gflop = 0;
};
std::vector<ModelListing> list_models();

struct AttentionListing {
  struct Option {
    std::string name, default_value, help;
  };
  std::string name, summary, paper, cost;
  std::vector<Option> options;
};
std::vector<AttentionListing> list_attentions();

struct DatasetListing {
  std::string name, summary, path;
  bool installed = false;
};
std::vector<DatasetListing> list_datasets();  // those that packages install

struct KernelListing {
  std::string name, summary;
  bool chosen = false;  // by "auto"
};
std::vector<KernelListing> list_kernels();    // those that this machine runs

std::string version();

}  // namespace fovea
