// Reads Python's pickle streams (protocols 0 to 5) as plain data. Nothing is ever imported, called or executed: a class
// stays its name, and a call stays the record of what was to be called with what.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fovea {

// One value: 16 bytes, so that a hostile stream cannot turn few bytes into much memory.
struct PickleValue {
  enum class Kind : uint8_t {
    kNone, kBool, kInt, kFloat,
    kText,        // str or bytes, viewing the stream
    kTuple, kList, kDict,  // list and set alike; a dict's items alternate key, value
    kGlobal,      // head = module, args = name (both kText)
    kCall,        // head called with args; `items` holds what was put in afterwards, `state` what it was built from
    kPersistent,  // args = the persistent id
    kOther        // an integer beyond 64 bits or an extension code
  };
  Kind kind = Kind::kNone;
  uint32_t length = 0;  // of text
  union {
    int64_t integer = 0;  // kInt, kBool
    double real;
    const char* text;
    uint32_t node;  // kTuple and below
  };

  std::string_view str() const { return kind == Kind::kText ? std::string_view(text, length) : std::string_view(); }
  bool has_node() const { return kind >= Kind::kTuple && kind <= Kind::kPersistent; }
};

struct PickleNode {
  std::vector<PickleValue> items;
  PickleValue head, args, state;
};

// The values may form cycles and share parts: whoever walks them bounds depth and steps.
struct Pickle {
  PickleValue root;
  std::vector<PickleNode> nodes;
  std::vector<PickleValue> persistent_ids;  // all of the stream, in its order
  size_t bytes = 0;                         // how much of the stream it took: another pickle may follow

  const PickleNode& operator[](const PickleValue& v) const { return nodes[v.node]; }
  bool is_global(const PickleValue& v, std::string_view module, std::string_view name) const;
  std::string global_name(const PickleValue& v) const;  // "module.name"; empty when v is no global
};

// Reads the first pickle of `stream`; the result views it. Throws Error beginning with `what` when the stream is broken, ends early or exceeds the limits
// on size, stack, memo and number of values.
Pickle parse_pickle(std::span<const std::byte> stream, std::string_view what);

}  // namespace fovea
