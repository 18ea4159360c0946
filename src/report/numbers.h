// Numbers as people read them. Every function is locale independent; a value that is not finite reads "–" (not
// measured).
#pragma once

#include <cstdint>
#include <string>

namespace fovea::report {

// 55000 -> "55,000".
std::string grouped(int64_t value);

// A share in 0..1 as per cent with one decimal: 0.9123 -> "91.2 %", the blank a no-break space.
std::string percent(double share);

// `digits` significant digits without trailing zeros: (0.031250, 3) -> "0.0312"; below 1e-4 and from 1e7 on with an
// exponent.
std::string significant(double value, int digits = 4);

// As `significant`, with a fixed number of decimals where the value is large enough to show in them: columns line up.
std::string fixed(double value, int decimals = 4);

// An exponent without plus sign and leading zeros: "5e-04" -> "5e-4".
std::string short_exponent(std::string number);

// Seconds in the units a clock has: 0.42 -> "0.4 s", 192 -> "3 min 12 s", 7260 -> "2 h 1 min".
std::string duration(double seconds);

// "1 image", "5,000 images".
std::string counted(int64_t count, const std::string& singular, const std::string& plural);

struct Interval {
  double low, high;
};

// 95 % confidence interval of a share observed on `trials` independent cases (Wilson, JASA 22, 1927); [0, 1] for no
// trial.
Interval wilson_interval(double share, int64_t trials);

}  // namespace fovea::report
