// What a forward keeps for its backward: typed records, last in first out. A layer pushes exactly one record (a small
// struct of views) in forward and pops it in backward; popping another type than was pushed throws. The tensors that the
// records view live in the tape's arena; inputs of a layer are not copied, so they must stay unchanged until its backward.
#pragma once

#include <cstring>
#include <type_traits>
#include <typeinfo>
#include <vector>

#include "core/arena.h"

namespace fovea {

class Tape {
 public:
  Arena& arena() { return arena_; }

  template <class Record>
  void push(const Record& record) {
    static_assert(std::is_trivially_destructible_v<Record>, "records are plain views");
    void* p = arena_.take(sizeof(Record));
    new (p) Record(record);
    entries_.push_back({&typeid(Record), p});
  }

  // The newest record, which must be of this type. Its tensors stay valid until clear().
  template <class Record>
  Record pop() {
    check(!entries_.empty(), "backward pops {} from an empty tape", typeid(Record).name());
    const Entry e = entries_.back();
    check(*e.type == typeid(Record), "backward pops {} where forward pushed {}", typeid(Record).name(), e.type->name());
    entries_.pop_back();
    return *static_cast<const Record*>(e.record);
  }

  bool empty() const { return entries_.empty(); }
  size_t size() const { return entries_.size(); }

  // Forgets everything; call it between steps.
  void clear() {
    entries_.clear();
    arena_.reset();
  }

 private:
  struct Entry {
    const std::type_info* type;
    const void* record;
  };
  Arena arena_;
  std::vector<Entry> entries_;
};

}  // namespace fovea
