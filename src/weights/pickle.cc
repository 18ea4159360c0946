#include "weights/pickle.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <cstring>
#include <optional>

#include "core/check.h"

namespace fovea {

namespace {

using Kind = PickleValue::Kind;

// The pickles of the largest checkpoints stay below a tenth of these; together they hold memory under some 250 MB.
constexpr size_t kMaxNodes = size_t{1} << 20, kMaxValues = size_t{1} << 22, kMaxMemo = size_t{1} << 20;
constexpr size_t kMaxStream = size_t{64} << 20;

// Opcodes as Python's pickletools names them.
enum Op : uint8_t {
  kMark = '(', kStop = '.', kPop = '0', kPopMark = '1', kDup = '2', kFloat = 'F', kInt = 'I', kBinInt = 'J', kBinInt1 = 'K',
  kLong = 'L', kBinInt2 = 'M', kNone = 'N', kPersId = 'P', kBinPersId = 'Q', kReduce = 'R', kString = 'S', kBinString = 'T',
  kShortBinString = 'U', kUnicode = 'V', kBinUnicode = 'X', kAppend = 'a', kBuild = 'b', kGlobal = 'c', kDict = 'd',
  kEmptyDict = '}', kAppends = 'e', kGet = 'g', kBinGet = 'h', kInst = 'i', kLongBinGet = 'j', kList = 'l', kEmptyList = ']',
  kObj = 'o', kPut = 'p', kBinPut = 'q', kLongBinPut = 'r', kSetItem = 's', kTuple = 't', kEmptyTuple = ')', kSetItems = 'u',
  kBinFloat = 'G', kProto = 0x80, kNewObj = 0x81, kExt1 = 0x82, kExt2 = 0x83, kExt4 = 0x84, kTuple1 = 0x85, kTuple2 = 0x86,
  kTuple3 = 0x87, kNewTrue = 0x88, kNewFalse = 0x89, kLong1 = 0x8a, kLong4 = 0x8b, kBinBytes = 'B', kShortBinBytes = 'C',
  kShortBinUnicode = 0x8c, kBinUnicode8 = 0x8d, kBinBytes8 = 0x8e, kEmptySet = 0x8f, kAddItems = 0x90, kFrozenSet = 0x91,
  kNewObjEx = 0x92, kStackGlobal = 0x93, kMemoize = 0x94, kFrame = 0x95, kByteArray8 = 0x96
};

class PickleReader {
 public:
  PickleReader(std::span<const std::byte> stream, std::string_view what)
      : stream_(stream.first(std::min(stream.size(), kMaxStream))), what_(what) {}

  Pickle run() {
    while (true) {
      op_at_ = at_;
      const uint8_t op = number<uint8_t>();
      if (op == kStop) break;
      step(op);
    }
    pickle_.root = pop();
    pickle_.bytes = at_;
    return std::move(pickle_);
  }

 private:
  template <class... Args>
  [[noreturn]] void broken(fmt::format_string<Args...> format, Args&&... args) const {
    fail("{}: the pickle is broken: {} (byte {})", what_, fmt::format(format, std::forward<Args>(args)...), op_at_);
  }

  [[noreturn]] void ends_early() const {
    if (stream_.size() == kMaxStream) broken("it goes on beyond the limit of {} bytes", kMaxStream);
    broken("it ends early");
  }

  const char* take(uint64_t n) {
    if (n > stream_.size() - at_) ends_early();
    const char* p = reinterpret_cast<const char*>(stream_.data()) + at_;
    at_ += n;
    return p;
  }

  template <class T>
  T number() {
    T v;
    std::memcpy(&v, take(sizeof(T)), sizeof(T));
    return v;
  }

  std::string_view line() {
    const char* begin = reinterpret_cast<const char*>(stream_.data()) + at_;
    const void* end = at_ == stream_.size() ? nullptr : std::memchr(begin, '\n', stream_.size() - at_);
    if (end == nullptr) ends_early();
    const auto n = static_cast<size_t>(static_cast<const char*>(end) - begin);
    at_ += n + 1;
    return {begin, n};
  }

  static PickleValue make(Kind kind, int64_t integer = 0) {
    PickleValue v;
    v.kind = kind;
    v.integer = integer;
    return v;
  }

  static PickleValue make_text(std::string_view s) {
    PickleValue v;
    v.kind = Kind::kText;
    v.length = static_cast<uint32_t>(s.size());
    v.text = s.data();
    return v;
  }

  static PickleValue make_real(double d) {
    PickleValue v;
    v.kind = Kind::kFloat;
    v.real = d;
    return v;
  }

  PickleValue make_node(Kind kind) {
    if (pickle_.nodes.size() >= kMaxNodes) broken("it holds more than {} objects", kMaxNodes);
    PickleValue v;
    v.kind = kind;
    v.integer = 0;
    v.node = static_cast<uint32_t>(pickle_.nodes.size());
    pickle_.nodes.emplace_back();
    return v;
  }

  PickleNode& node(const PickleValue& v) { return pickle_.nodes[v.node]; }

  PickleValue make_call(PickleValue head, PickleValue args) {
    const PickleValue v = make_node(Kind::kCall);
    node(v).head = head;
    node(v).args = args;
    return v;
  }

  PickleValue make_global(PickleValue module, PickleValue name) {
    const PickleValue v = make_node(Kind::kGlobal);
    node(v).head = module;
    node(v).args = name;
    return v;
  }

  void push(PickleValue v) {
    if (++pushed_ > kMaxValues) broken("it holds more than {} values", kMaxValues);
    stack_.push_back(v);
  }
  void push_text(uint64_t n) {
    const char* p = take(n);
    push(make_text({p, n}));
  }

  size_t floor() const { return marks_.empty() ? 0 : marks_.back(); }  // values below the last mark are out of reach

  PickleValue pop() {
    if (stack_.size() <= floor()) broken("a value is missing on the stack");
    const PickleValue v = stack_.back();
    stack_.pop_back();
    return v;
  }

  PickleValue& top() {
    if (stack_.size() <= floor()) broken("a value is missing on the stack");
    return stack_.back();
  }

  // Removes and returns the values above the last mark.
  std::vector<PickleValue> pop_marked() {
    if (marks_.empty()) broken("a mark is missing on the stack");
    const auto begin = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
    std::vector<PickleValue> values(begin, stack_.end());
    stack_.erase(begin, stack_.end());
    marks_.pop_back();
    return values;
  }

  void push_container(Kind kind, std::vector<PickleValue> values) {
    const PickleValue v = make_node(kind);
    node(v).items = std::move(values);
    push(v);
  }

  void push_persistent(PickleValue id) {
    const PickleValue v = make_node(Kind::kPersistent);
    node(v).args = id;
    pickle_.persistent_ids.push_back(id);
    push(v);
  }

  void push_tuple(size_t n) {
    std::vector<PickleValue> values(n);
    for (size_t i = n; i > 0; --i) values[i - 1] = pop();
    push_container(Kind::kTuple, std::move(values));
  }

  void extend(const std::vector<PickleValue>& values) {
    const PickleValue target = top();
    if (!target.has_node()) broken("items are added to something that is no container");
    auto& items = node(target).items;
    items.insert(items.end(), values.begin(), values.end());
  }

  void extend_pairs(const std::vector<PickleValue>& values) {
    if (values.size() % 2 != 0) broken("a key has no value");
    extend(values);
  }

  // Picklers number the entries one by one, so that none has a higher number than the bytes that lie before it.
  void put(uint64_t index) {
    if (index >= std::min(kMaxMemo, at_)) broken("memo entry {} exceeds the limit of {}", index, std::min(kMaxMemo, at_));
    if (index >= memo_.size()) memo_.resize(std::max<size_t>(index + 1, std::min(memo_.size() * 2, kMaxMemo)));
    memo_[index] = top();
  }

  void get(uint64_t index) {
    if (index >= memo_.size() || !memo_[index]) broken("it refers to memo entry {}, which does not exist", index);
    push(*memo_[index]);
  }

  template <class T>
  T decimal(std::string_view s) const {
    T v{};
    const auto [end, error] = std::from_chars(s.data(), s.data() + s.size(), v);
    if (error != std::errc() || end != s.data() + s.size()) broken("{} is not a number", s.substr(0, 40));
    return v;
  }

  void push_decimal_integer(std::string_view s) {
    if (s == "00" || s == "01") return push(make(Kind::kBool, s == "01"));
    int64_t v = 0;
    const auto [end, error] = std::from_chars(s.data(), s.data() + s.size(), v);
    if (error == std::errc::result_out_of_range) return push(make(Kind::kOther));
    if (error != std::errc() || end != s.data() + s.size()) broken("{} is not an integer", s.substr(0, 40));
    push(make(Kind::kInt, v));
  }

  void push_long(uint64_t bytes) {
    const char* p = take(bytes);
    if (bytes > 8) return push(make(Kind::kOther));
    uint64_t v = bytes != 0 && (static_cast<unsigned char>(p[bytes - 1]) & 0x80) != 0 ? ~uint64_t{0} : 0;
    std::memcpy(&v, p, bytes);
    push(make(Kind::kInt, std::bit_cast<int64_t>(v)));
  }

  void step(uint8_t op) {
    switch (op) {
      case kProto: {
        const auto version = number<uint8_t>();
        if (version > 5) broken("its protocol {} is unknown", version);
        return;
      }
      case kFrame: take(8); return;
      case kMark:
        if (marks_.size() >= kMaxNodes) broken("it holds more than {} marks", kMaxNodes);
        marks_.push_back(stack_.size());
        return;
      case kPop:
        if (stack_.size() == floor() && !marks_.empty()) marks_.pop_back();
        else pop();
        return;
      case kPopMark: pop_marked(); return;
      case kDup: push(top()); return;

      case kNone: return push(make(Kind::kNone));
      case kNewTrue: return push(make(Kind::kBool, 1));
      case kNewFalse: return push(make(Kind::kBool, 0));
      case kBinInt: return push(make(Kind::kInt, number<int32_t>()));
      case kBinInt1: return push(make(Kind::kInt, number<uint8_t>()));
      case kBinInt2: return push(make(Kind::kInt, number<uint16_t>()));
      case kInt: return push_decimal_integer(line());
      case kLong: {
        std::string_view s = line();
        if (s.ends_with('L')) s.remove_suffix(1);
        return push_decimal_integer(s);
      }
      case kLong1: return push_long(number<uint8_t>());
      case kLong4: return push_long(number<uint32_t>());
      case kFloat: return push(make_real(decimal<double>(line())));
      case kBinFloat: return push(make_real(std::bit_cast<double>(__builtin_bswap64(number<uint64_t>()))));

      case kString:
      case kUnicode: return push(make_text(line()));
      case kShortBinString:
      case kShortBinBytes:
      case kShortBinUnicode: return push_text(number<uint8_t>());
      case kBinString:
      case kBinBytes:
      case kBinUnicode: return push_text(number<uint32_t>());
      case kBinBytes8:
      case kBinUnicode8:
      case kByteArray8: return push_text(number<uint64_t>());

      case kEmptyTuple: return push_tuple(0);
      case kTuple1: return push_tuple(1);
      case kTuple2: return push_tuple(2);
      case kTuple3: return push_tuple(3);
      case kTuple: return push_container(Kind::kTuple, pop_marked());
      case kEmptyList:
      case kEmptySet: return push_container(Kind::kList, {});
      case kList:
      case kFrozenSet: return push_container(Kind::kList, pop_marked());
      case kEmptyDict: return push_container(Kind::kDict, {});
      case kDict: {
        std::vector<PickleValue> values = pop_marked();
        push_container(Kind::kDict, {});
        return extend_pairs(values);
      }
      case kAppend: {
        const PickleValue v = pop();
        return extend({v});
      }
      case kAppends:
      case kAddItems: return extend(pop_marked());
      case kSetItem: {
        const PickleValue value = pop(), key = pop();
        return extend({key, value});
      }
      case kSetItems: return extend_pairs(pop_marked());

      case kPut: return put(decimal<uint64_t>(line()));
      case kBinPut: return put(number<uint8_t>());
      case kLongBinPut: return put(number<uint32_t>());
      case kMemoize: return put(memoized());
      case kGet: return get(decimal<uint64_t>(line()));
      case kBinGet: return get(number<uint8_t>());
      case kLongBinGet: return get(number<uint32_t>());

      case kGlobal: {
        const PickleValue module = make_text(line()), name = make_text(line());
        return push(make_global(module, name));
      }
      case kStackGlobal: {
        const PickleValue name = pop(), module = pop();
        return push(make_global(module, name));
      }
      case kReduce:
      case kNewObj: {
        const PickleValue args = pop(), head = pop();
        return push(make_call(head, args));
      }
      case kNewObjEx: {
        pop();  // keyword arguments
        const PickleValue args = pop(), head = pop();
        return push(make_call(head, args));
      }
      case kInst: {
        const PickleValue module = make_text(line()), name = make_text(line());
        const PickleValue head = make_global(module, name);
        push_container(Kind::kTuple, pop_marked());
        return push(make_call(head, pop()));
      }
      case kObj: {
        std::vector<PickleValue> values = pop_marked();
        if (values.empty()) broken("an object has no class");
        const PickleValue head = values.front();
        values.erase(values.begin());
        push_container(Kind::kTuple, std::move(values));
        return push(make_call(head, pop()));
      }
      case kBuild: {
        const PickleValue state = pop();
        if (top().has_node()) node(top()).state = state;
        return;
      }
      case kPersId: return push_persistent(make_text(line()));
      case kBinPersId: return push_persistent(pop());
      case kExt1: take(1); return push(make(Kind::kOther));
      case kExt2: take(2); return push(make(Kind::kOther));
      case kExt4: take(4); return push(make(Kind::kOther));
      default: broken("opcode {:#04x} is unknown", op);
    }
  }

  // MEMOIZE stores under the number of entries so far.
  size_t memoized() { return memo_count_++; }

  std::span<const std::byte> stream_;
  std::string_view what_;
  size_t at_ = 0, op_at_ = 0, pushed_ = 0, memo_count_ = 0;
  std::vector<PickleValue> stack_;
  std::vector<size_t> marks_;
  std::vector<std::optional<PickleValue>> memo_;
  Pickle pickle_;
};

}  // namespace

bool Pickle::is_global(const PickleValue& v, std::string_view module, std::string_view name) const {
  return v.kind == Kind::kGlobal && (*this)[v].head.str() == module && (*this)[v].args.str() == name;
}

std::string Pickle::global_name(const PickleValue& v) const {
  if (v.kind != Kind::kGlobal) return {};
  return fmt::format("{}.{}", (*this)[v].head.str(), (*this)[v].args.str());
}

Pickle parse_pickle(std::span<const std::byte> stream, std::string_view what) { return PickleReader(stream, what).run(); }

}  // namespace fovea
