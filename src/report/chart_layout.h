// What all charts share, in units of the view box: at 460 wide the text is 10.5 px high on a 400 px screen and 15 px in a
// half-page column.
#pragma once

namespace fovea::report {

inline constexpr double kChartWidth = 460, kCharacterWidth = 7.6;
inline constexpr int kChartColours = 6;

}  // namespace fovea::report
