// What pictures become on their way to a model, for comparison with other implementations by tools/compare_preprocessing.py.
// Reads lines of tab-separated fields, a file and settings, and answers each with a line (preprocess_case.h). Built with the
// tests and not installed.
#include <iostream>
#include <sstream>

#include "preprocess_case.h"

int main() {
  for (std::string line; std::getline(std::cin, line);) {
    std::stringstream stream(line);
    std::string file, field;
    std::getline(stream, file, '\t');
    std::vector<std::string> settings;
    while (std::getline(stream, field, '\t')) settings.push_back(field);
    std::cout << fovea::testing::preprocessing_line(file, settings) << std::endl;
  }
}
