// The classes of ImageNet in the order of the heads that are trained on it, for models that bring no names of their own.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace fovea {

struct ImageNetClasses {
  std::string title;                  // "ImageNet-1k"
  std::vector<std::string> synsets;   // WordNet's numbers, which folders of ImageNet are called by: "n01440764"
  std::vector<std::string> names;     // the synset's words: "tench, Tinca tinca"
};

// The list of so many classes (1000, 10450, 11221, 11821, 21841, 21842 or 21843), unpacked once; nullptr when there is none.
const ImageNetClasses* imagenet_classes(int64_t classes);

}  // namespace fovea
