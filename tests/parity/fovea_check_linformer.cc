// Fixtures of Linformer.
#include "parity/runners.h"

#include "attention/linformer.h"

namespace fovea::parity {

namespace {

std::string lucidrains_name(const std::string& key) {
  if (key.rfind("to_out.", 0) == 0) return "proj." + key.substr(7);
  if (key.rfind("to_", 0) == 0) return key.substr(3);
  return key;
}

void linformer_attention(CheckCase& c) {
  const Json& j = c.config;
  AttentionConfig a;
  a.dim = j.at("dim");
  a.heads = j.at("heads");
  if (j.contains("dim_head") && !j["dim_head"].is_null()) a.head_dim = j["dim_head"];
  a.qkv_bias = false;
  a.cross = c.fixture.has("in.context");
  LinformerConfig l;
  l.slots = j.at("k");
  l.max_tokens = j.at("seq_len");
  l.share_kv = flag(j, "share_kv", false);
  l.one_kv_head = flag(j, "one_kv_head", false);
  const LinformerAttention attention(Scope(c.params), a, l);
  c.load(lucidrains_name);
  AttentionInputs in;
  in.x = c.input("x");
  in.grid = sequence(in.x.dim(0), in.x.dim(1));
  AttentionGradients g{c.memory(in.x.shape), {}, {}};
  if (a.cross) {
    in.key_input = c.input("context");
    g.dkey_input = c.memory(in.key_input.shape);
  }
  run_attention(c, attention, in, g, in.x.shape);
  c.input_gradient("x", g.dx);
  if (a.cross) c.input_gradient("context", g.dkey_input);
}

}  // namespace

void add_linformer_runners(Runners& runners) { runners["linformer_attention"] = linformer_attention; }

}  // namespace fovea::parity
