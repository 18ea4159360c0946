// A small checker of markup: what a strict XML parser would reject in tags, attributes and entities.
#pragma once

#include <string>
#include <string_view>

namespace fovea::report {

// Empty if every tag of `page` (HTML written as XML, or SVG) is closed in order, attributes are quoted and unique, and
// no bare < or & stands in text or attributes; else the first problem with its surroundings.
std::string markup_problem(std::string_view page);

// How often `what` occurs in `text`.
int occurrences(std::string_view text, std::string_view what);

}  // namespace fovea::report
