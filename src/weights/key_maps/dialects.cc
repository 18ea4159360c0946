// The list of dialects, and how a file finds its own.
#include <algorithm>
#include <unordered_set>
#include <utility>

#include "core/check.h"
#include "weights/key_maps/key_maps.h"

namespace fovea {

namespace {

// In the order in which files are tried.
std::vector<Dialect> all_dialects() {
  return {
      facebook_deit3_dialect(),  // whose names are timm's but for a few
      facebook_dinov2_dialect(),
      facebook_dinov2_gated_dialect(),
      timm_dialect(),
      microsoft_swin_dialect(),
      huggingface_swin_dialect(),
      huggingface_swin_backbone_dialect(),
      huggingface_swinv2_dialect(),
      torchvision_swin_dialect(),
      torchvision_swinv2_dialect(),
      mmpretrain_swin_dialect(),
      mmpretrain_swinv2_dialect(),
      mmdet_swin_dialect(),
      microsoft_cswin_dialect(),
      torchvision_vit_dialect(),
      huggingface_vit_dialect(),
      huggingface_deit_dialect(),
      huggingface_deit_teacher_dialect(),
      huggingface_dinov2_dialect(),
      huggingface_dinov2_gated_dialect(),
      huggingface_dinov2_registers_dialect(),
      huggingface_dinov2_registers_gated_dialect(),
      huggingface_clip_dialect(),
      huggingface_clip_classifier_dialect(),
      huggingface_siglip_dialect(),
      huggingface_siglip_classifier_dialect(),
      openclip_vit_dialect(),
      mmpretrain_vit_dialect(),
      jax_vit_dialect(),
      lucidrains_vit_dialect(),
      lucidrains_vit_patch_norm_dialect(),
  };
}

std::optional<RecognisedModel> recognise_whole(const WeightFile& file) {
  for (const Dialect& d : dialects())
    if (auto model = d.recognise(file)) {
      model->dialect = &d;
      return model;
    }
  return std::nullopt;
}

// What a model inside a larger one may be called: what comes before the first dots of the names.
std::vector<std::string> inner_prefixes(const WeightFile& file) {
  constexpr size_t kMost = 64;
  std::vector<std::string> out = {"backbone."};
  std::unordered_set<std::string> seen(out.begin(), out.end());
  for (int dots = 1; dots <= 2; ++dots)
    for (const WeightTensor& t : file.tensors()) {
      size_t end = t.name.find('.');
      if (dots == 2 && end != std::string::npos) end = t.name.find('.', end + 1);
      if (end == std::string::npos || out.size() >= kMost) continue;
      if (std::string prefix = t.name.substr(0, end + 1); seen.insert(prefix).second) out.push_back(std::move(prefix));
    }
  return out;
}

// How well a file's names agree with what marks one kind of one dialect.
struct Likeness {
  const Dialect* dialect = nullptr;
  std::string_view kind;
  size_t present = 0;
  std::vector<std::string_view> absent;

  double share() const { return static_cast<double>(present) / static_cast<double>(std::max<size_t>(1, present + absent.size())); }
};

Likeness likeness(const WeightFile& file, const Dialect& dialect, const DialectKind& kind) {
  Likeness l{&dialect, kind.kind, 0, {}};
  for (const std::string_view sign : kind.signs) {
    if (std::ranges::any_of(file.tensors(), [&](const WeightTensor& t) { return match_key(sign, t.name).has_value(); })) ++l.present;
    else l.absent.push_back(sign);
  }
  return l;
}

std::string listed(std::span<const std::string_view> names) {
  std::vector<std::string> out;
  for (const std::string_view n : names) out.push_back(printable(n));
  return fmt::format("{}", fmt::join(out, ", "));
}

// What people call the homes that our names begin with.
constexpr std::pair<std::string_view, std::string_view> kHomes[] = {
    {"hf", "huggingface"}, {"transformers", "huggingface"}, {"ms", "microsoft"}, {"facebookresearch", "facebook"}, {"vit-pytorch", "lucidrains"}};

std::string home_of(std::string_view dialect) { return std::string(dialect.substr(0, dialect.find('-'))); }

}  // namespace

std::span<const Dialect> dialects() {
  static const std::vector<Dialect> kDialects = all_dialects();
  return kDialects;
}

bool Dialect::holds(std::string_view kind) const { return std::ranges::find(kinds, kind, &DialectKind::kind) != kinds.end(); }

std::optional<RecognisedModel> recognise(const WeightFile& file) {
  if (auto model = recognise_whole(file)) return model;
  for (const std::string& prefix : inner_prefixes(file)) {
    const WeightFile inner = file.under(prefix);
    if (inner.tensors().empty()) continue;
    if (auto model = recognise_whole(inner)) {
      model->prefix = prefix;
      return model;
    }
  }
  return std::nullopt;
}

std::string nearly(const WeightFile& file, const Dialect* except) {
  Likeness best;
  for (const Dialect& d : dialects()) {
    if (&d == except) continue;
    for (const DialectKind& k : d.kinds)
      if (Likeness l = likeness(file, d, k); l.present > 0 && (best.dialect == nullptr || l.share() > best.share())) best = std::move(l);
  }
  if (best.dialect == nullptr || best.share() < 0.5) return "";
  if (best.absent.empty()) return fmt::format("; the file has the names of '{}' ({}), but they do not make up a model", best.dialect->name, best.kind);
  return fmt::format("; the file is nearly '{}' ({}): it has {} of the {} names that mark it, not {}", best.dialect->name, best.kind, best.present,
                     best.present + best.absent.size(), listed(best.absent));
}

RecognisedModel require_recognised(const WeightFile& file) {
  if (auto model = recognise(file)) return *std::move(model);
  std::vector<std::string> some;
  for (const WeightTensor& t : file.tensors().first(std::min<size_t>(file.tensors().size(), 4))) some.push_back(printable(t.name));
  const std::string what = fmt::format("'{}' holds no model that fovea recognises: its {} tensors ({}{})", file.path(), file.tensors().size(),
                                       fmt::join(some, ", "), file.tensors().size() > some.size() ? ", ..." : "");
  if (const std::string near = nearly(file, nullptr); !near.empty()) fail("{} are in no known naming scheme{}", what, near);
  std::vector<std::string_view> known;
  for (const Dialect& d : dialects()) known.push_back(d.name);
  fail("{} follow none of the naming schemes {}", what, fmt::join(known, ", "));
}

std::vector<const Dialect*> dialects_named(std::string_view name, std::string_view kind) {
  for (const auto& [alias, home] : kHomes)
    if (name == alias) name = home;
  std::vector<const Dialect*> by_home;
  std::vector<std::string> fitting;
  bool known = false;
  for (const Dialect& d : dialects()) {
    known = known || d.name == name || home_of(d.name) == name;
    if (!d.holds(kind)) continue;
    if (d.name == name) return {&d};
    if (home_of(d.name) == name) by_home.push_back(&d);
    fitting.emplace_back(d.name);
  }
  if (!by_home.empty()) return by_home;
  fail("--to {}: {}; for this one there are fovea, {}", name, known ? fmt::format("that scheme has no {} models", kind) : "there is no such naming scheme",
       fmt::join(fitting, ", "));
}

}  // namespace fovea
