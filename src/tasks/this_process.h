// What the system tells about this process and its machine, for reports.
#pragma once

#include <chrono>
#include <string>

namespace fovea {

std::string processor_name();       // "" where the system does not say
double peak_memory_mib();           // high-water mark of resident memory; 0 where the system does not say
double resident_memory_mib();       // now; 0 where the system does not say

inline double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace fovea
