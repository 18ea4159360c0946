// What a file may claim: every container, the same attacks. Each gives one error that names the file, and costs no memory.
#include <gmock/gmock.h>
#include <malloc.h>

#include <atomic>
#include <cmath>
#include <cstdlib>
#include <functional>

#include "weights/pickle_fixtures.h"
#include "weights/weight_fixtures.h"
#include "weights/weight_file.h"
#include "weights/zip_fixtures.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define FOVEA_COUNTS_MEMORY 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define FOVEA_COUNTS_MEMORY 0
#endif
#endif
#ifndef FOVEA_COUNTS_MEMORY
#define FOVEA_COUNTS_MEMORY 1
#endif

namespace {

std::atomic<bool> counting_memory{false};
std::atomic<int64_t> memory_now{0}, memory_most{0};

[[maybe_unused]] void* count_taken(void* p) {
  if (counting_memory && p != nullptr) {
    const int64_t now = memory_now += static_cast<int64_t>(malloc_usable_size(p));
    if (now > memory_most) memory_most = now;
  }
  return p;
}
[[maybe_unused]] void count_given(void* p) {
  if (counting_memory && p != nullptr) memory_now -= static_cast<int64_t>(malloc_usable_size(p));
}

}  // namespace

#if FOVEA_COUNTS_MEMORY
// This program's memory, that of the libraries included, goes through these.
extern "C" {
void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void __libc_free(void*);
void* malloc(size_t n) { return count_taken(__libc_malloc(n)); }
void* calloc(size_t n, size_t size) { return count_taken(__libc_calloc(n, size)); }
void* realloc(void* p, size_t n) {
  count_given(p);
  return count_taken(__libc_realloc(p, n));
}
void free(void* p) {
  count_given(p);
  __libc_free(p);
}
}
#endif

namespace fovea {
namespace {

using namespace std::string_literals;
using testing::error_of;
using testing::pickled_dict;
using testing::pickled_tensor;
using testing::pickled_text;
using testing::safetensors_bytes;
using testing::zip_of;
using ::testing::HasSubstr;

template <class T>
std::string little(T v) {
  return {reinterpret_cast<const char*>(&v), sizeof v};
}

std::string torch_zip_of(const std::string& pickle, const std::string& storage = std::string(64, '\0')) {
  return zip_of({{"a/data.pkl", pickle}, {"a/data/0", storage}});
}

std::string legacy_of(const std::string& content, uint64_t elements = 16, const std::string& storage = std::string(64, '\0')) {
  return "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}."s + content + "\x80\x02](" + pickled_text("0") + "e." +
         little(elements) + storage;
}

std::string npy_of(const std::string& shape, const std::string& data = std::string(4, '\0')) {
  const std::string dict = "{'descr': '<f4', 'fortran_order': False, 'shape': " + shape + ", }\n";
  return "\x93NUMPY\1\0"s + little(static_cast<uint16_t>(dict.size())) + dict + data;
}

// Replaces the field `offset` bytes after every `signature` by `value`.
template <class T>
std::string patched(std::string bytes, const std::string& signature, int64_t offset, T value) {
  for (size_t at = 0; (at = bytes.find(signature, at)) != std::string::npos; at += signature.size())
    std::memcpy(bytes.data() + static_cast<int64_t>(at) + offset, &value, sizeof value);
  return bytes;
}
// An archive whose headers say that every entry unpacks to `size` bytes.
std::string claiming(const std::string& zip, uint32_t size) { return patched(patched(zip, "PK\1\2", 24, size), "PK\3\4", 22, size); }

const std::string kGood = pickled_dict(pickled_text("w") + pickled_tensor(0, {4, 4}, {4, 1}));
std::string one_tensor(const std::string& tensor) { return pickled_dict(pickled_text("w") + tensor); }

struct Attack {
  const char* name;
  std::function<std::string()> bytes;
  const char* message;
};

const Attack kAttacks[] = {
    // Lengths and counts that nothing in the file covers.
    {"safetensors, a header of 2^60 bytes", [] { return little(uint64_t{1} << 60) + "{}" + std::string(190, ' '); }, "claims a header of 1152921504606846976 bytes"},
    {"safetensors, a header of gigabytes", [] { return little(uint64_t{99'000'000}) + "{}" + std::string(190, ' '); }, "should have 99000000 bytes"},
    {"safetensors, a tensor of gigabytes", [] { return safetensors_bytes(R"({"a":{"dtype":"F32","shape":[1073741824],"data_offsets":[0,4294967296]}})", std::string(100, 'x')); }, "reaches to byte 4294967296"},
    {"safetensors, a product of 2^64", [] { return safetensors_bytes(R"({"a":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]}})"); }, "overflows"},
    {"safetensors, bytes of 2^64", [] { return safetensors_bytes(R"({"a":{"dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,0]}})"); }, "overflows"},
    {"zip, deflated gigabytes", [] { return claiming(zip_of({{"a/data.pkl", kGood}}, true), 0xf0000000u); }, "out of proportion"},
    {"zip, stored gigabytes", [] { return patched(patched(claiming(zip_of({{"a/data.pkl", kGood}}), 0xf0000000u), "PK\1\2", 20, 0xf0000000u), "PK\3\4", 18, 0xf0000000u); }, "'"},
    {"zip, 65535 entries", [] { return patched(torch_zip_of(kGood), "PK\5\6", 8, 0xffffffffu); }, "claims more entries than it has room for"},
    {"zip, 2^40 entries", [] {
       // The records of zip64: one that counts the entries, one that says where it lies; then the ordinary one, all of whose numbers stand there.
       const std::string record = "PK\6\6"s + little(uint64_t{44}) + std::string(12, '\0') + little(uint64_t{1} << 40) + little(uint64_t{1} << 40) + little(uint64_t{0}) + little(uint64_t{0});
       return "PK\3\4"s + record + "PK\6\7"s + little(uint32_t{0}) + little(uint64_t{4}) + little(uint32_t{1}) + "PK\5\6\0\0\0\0"s + std::string(12, '\xff') + "\0\0"s;
     }, "claims more entries than it has room for"},
    {"zip, a directory of gigabytes", [] { return patched(torch_zip_of(kGood), "PK\5\6", 12, 0xf0000000u); }, "'"},
    {"npz, deflated gigabytes", [] { return claiming(zip_of({{"w.npy", npy_of("()")}}, true), 0xf0000000u); }, "out of proportion"},
    {"npz, a header of 4 gigabytes", [] { return zip_of({{"w.npy", "\x93NUMPY\2\0\xff\xff\xff\xff{}"s}}); }, "claims a .npy header of 4294967295 bytes"},
    {"npz, an array of gigabytes", [] { return zip_of({{"w.npy", npy_of("(4294967296,)")}}); }, "needs 17179869184"},
    {"npz, a product of 2^64", [] { return zip_of({{"w.npy", npy_of("(4294967296, 4294967296)")}}); }, "overflows"},
    {"zip pickle, a product of 2^64", [] { return torch_zip_of(one_tensor(pickled_tensor(0, {int64_t{1} << 32, int64_t{1} << 32}, {0, 0}))); }, "overflow"},
    {"zip pickle, a view of gigabytes", [] { return torch_zip_of(one_tensor(pickled_tensor(0, {int64_t{1} << 32}, {0}))); }, "repeats the 16 elements of its storage to 4294967296"},
    {"zip pickle, a text of 2^60 bytes", [] { return torch_zip_of("\x80\x04\x8d" + little(uint64_t{1} << 60) + "x."); }, "ends early"},
    {"zip pickle, bytes of 4 gigabytes", [] { return torch_zip_of("\x80\x02" "B\xff\xff\xff\xffx."); }, "ends early"},
    {"zip pickle, an integer of 4 gigabytes", [] { return torch_zip_of("\x80\x02\x8b\xff\xff\xff\xffx."); }, "ends early"},
    {"zip pickle, memo entry 2^31", [] { return torch_zip_of("\x80\x02Nr\xff\xff\xff\x7f."); }, "memo entry 2147483647 exceeds"},
    {"zip pickle, memo entry 10^6", [] { return torch_zip_of("\x80\x02Np1000000\n."); }, "memo entry 1000000 exceeds"},
    {"legacy, a storage of 2^60 elements", [] { return legacy_of(kGood, uint64_t{1} << 60); }, "should have 1152921504606846976 elements"},
    {"legacy, a storage of 2^62 elements", [] { return legacy_of(kGood, uint64_t{1} << 62); }, "should have 4611686018427387904 elements"},
    {"legacy, a storage of gigabytes", [] { return legacy_of(kGood, uint64_t{1} << 30); }, "should have 1073741824 elements"},
    {"legacy, a product of 2^64", [] { return legacy_of(one_tensor(pickled_tensor(0, {int64_t{1} << 32, int64_t{1} << 32}, {0, 0}))); }, "overflow"},
    {"legacy, a view of gigabytes", [] { return legacy_of(one_tensor(pickled_tensor(0, {1 << 20, 1 << 12}, {0, 0}))); }, "repeats the 16 elements"},
    {"legacy, a text of 2^60 bytes", [] { return legacy_of("\x80\x04\x8d" + little(uint64_t{1} << 60) + "x."); }, "ends early"},
    // Places that overlap or lie outside.
    {"safetensors, tensors that overlap", [] { return safetensors_bytes(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}})", "123456"); }, "overlaps"},
    {"safetensors, an empty tensor inside another", [] { return safetensors_bytes(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[0],"data_offsets":[2,2]}})", "1234"); }, "'b' overlaps"},
    {"safetensors, an offset beyond the end", [] { return safetensors_bytes(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})", "1234"); }, "reaches to byte 8"},
    {"zip, entries that overlap", [] { return patched(torch_zip_of(kGood), "PK\1\2", 42, uint32_t{0}); }, "'a/data.pkl' and 'a/data/0' overlap"},
    {"zip, an offset beyond the end", [] { return patched(torch_zip_of(kGood), "PK\1\2", 42, uint32_t{1} << 30); }, "'"},
    {"zip pickle, an offset beyond the end", [] { return torch_zip_of(one_tensor(pickled_tensor(15, {2}, {1}))); }, "reaches element 16 of its storage, which holds 16"},
    {"zip pickle, a negative offset", [] { return torch_zip_of(one_tensor(pickled_tensor(-1, {2}, {1}))); }, "overflow"},
    {"legacy, an offset beyond the end", [] { return legacy_of(one_tensor(pickled_tensor(15, {2}, {1}))); }, "reaches element 16"},
    {"npz, arrays that overlap", [] { return patched(zip_of({{"a.npy", npy_of("()")}, {"b.npy", npy_of("()")}}), "PK\1\2", 42, uint32_t{0}); }, "'a.npy' and 'b.npy' overlap"},
    // Names that occur twice.
    {"safetensors, a name twice", [] { return safetensors_bytes(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"\u0061":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})", "12"); }, "two tensors named 'a'"},
    {"zip, an entry twice", [] { return patched(zip_of({{"a/data/0", "x"}, {"a/data/1", "y"}}), "a/data/", 7, '0'); }, "two entries named 'a/data/0'"},
    {"zip pickle, a name twice", [] { return torch_zip_of(pickled_dict(pickled_text("w") + pickled_tensor(0, {1}, {1}) + pickled_text("w") + pickled_tensor(0, {2}, {1}))); }, "names 'w' twice"},
    {"zip pickle, a name twice by nesting", [] { return torch_zip_of(pickled_dict(pickled_text("a.w") + pickled_tensor(0, {1}, {1}) + pickled_text("a") + "}(" + pickled_text("w") + pickled_tensor(0, {2}, {1}) + "u")); }, "two tensors named 'a.w'"},
    {"legacy, a name twice", [] { return legacy_of(pickled_dict(pickled_text("w") + pickled_tensor(0, {1}, {1}) + pickled_text("w") + pickled_tensor(0, {2}, {1}))); }, "names 'w' twice"},
    {"npz, a name twice", [] { return patched(zip_of({{"a.npy", npy_of("()")}, {"b.npy", npy_of("()")}}), ".npy", -1, 'a'); }, "two entries named 'a.npy'"},
    // Code instead of weights.
    {"zip pickle, code", [] { return torch_zip_of("\x80\x02" "cos\nsystem\n(" + pickled_text("touch executed") + "tR."); }, "'os.system'"},
    {"legacy, code", [] { return legacy_of("\x80\x02" "cos\nsystem\n(" + pickled_text("touch executed") + "tR.", 0, ""); }, "'"},
};

TEST(Hostile, EveryAttackGivesOneErrorThatNamesTheFileAndTakesNoMemory) {
  const testing::TempFolder folder;
  for (const Attack& attack : kAttacks) {
    const std::string bytes = attack.bytes(), path = folder.write("file", bytes);
    memory_now = memory_most = 0;
    counting_memory = true;
    const std::string error = error_of([&] { open_weights(path); });
    counting_memory = false;
    EXPECT_THAT(error, HasSubstr(attack.message)) << attack.name;
    EXPECT_THAT(error, HasSubstr("'" + path + "'")) << attack.name;
    EXPECT_EQ(std::ranges::count(error, '\n'), 0) << attack.name;
    // Twice the file, and what libzip and zlib need for themselves.
    EXPECT_LE(memory_most, static_cast<int64_t>(2 * bytes.size() + 100'000)) << attack.name;
  }
  EXPECT_FALSE(std::filesystem::exists("executed"));
}

TEST(Hostile, TheCountSeesTheMemoryThatIsTaken) {
  if (!FOVEA_COUNTS_MEMORY) GTEST_SKIP() << "a sanitizer owns the memory";
  memory_now = memory_most = 0;
  counting_memory = true;
  {
    const std::vector<char> some(1'000'000);
    asm volatile("" : : "r"(some.data()) : "memory");  // or the compiler does without it
  }
  counting_memory = false;
  EXPECT_GE(memory_most, 1'000'000);
  EXPECT_LE(memory_most, 1'100'000);
}

// Files of more than 4 KiB whose every beginning up to there is too little.
TEST(Hostile, EveryTruncationInTheFirst4KiBGivesOneErrorThatNamesTheFile) {
  constexpr size_t kCut = 4096;
  std::string header = "{", items;
  for (int i = 0; i < 70; ++i) {
    header += fmt::format(R"({}"tensor.{}":{{"dtype":"U8","shape":[1],"data_offsets":[{},{}]}})", i == 0 ? "" : ",", i, i, i + 1);
    items += pickled_text("tensor." + std::to_string(i)) + pickled_tensor(0, {4, 4}, {4, 1});
  }
  std::vector<float> values(2000);
  for (size_t i = 0; i < values.size(); ++i) values[i] = std::sin(static_cast<float>(i * i));  // little to compress
  const std::string data(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
  const std::vector<std::pair<const char*, std::string>> files{
      {"safetensors", safetensors_bytes(header + "}", std::string(70, '\1'))},
      {"zip pickle", torch_zip_of(pickled_dict(items))},
      {"legacy pickle", legacy_of(pickled_dict(items))},
      {"legacy pickle, data", legacy_of(kGood, 2000, data)},
      {"npz", zip_of({{"w.npy", npy_of("(2000,)", data)}})},
      {"npz, deflated", zip_of({{"w.npy", npy_of("(2000,)", data)}}, true)},
  };
  const testing::TempFolder folder;
  for (const auto& [name, bytes] : files) {
    ASSERT_GT(bytes.size(), kCut) << name;
    const std::string path = folder.write("file", bytes);
    open_weights(path);
    for (size_t n = kCut; n-- > 0;) {
      std::filesystem::resize_file(path, n);
      const std::string error = error_of([&] { open_weights(path); });
      if (error.find("'" + path + "'") == std::string::npos || error.find('\n') != std::string::npos) {
        ADD_FAILURE() << name << ", " << n << " bytes: " << error;
        break;
      }
    }
  }
}

}  // namespace
}  // namespace fovea
