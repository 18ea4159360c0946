// Kernelised attention on features, token by token: the sums over keys are a state that takes in one key after the other. A
// key's features are kept relative to the stabiliser at its own place; the state is rescaled when the stabiliser moves.
//
// phi(k)_f = E_f + epsilon with one epsilon for all features, so the sums split in two:
//   sum_j phi(k_j)_f v_j = S_f + S_rest with S_rest = epsilon · sum_j v_j, and with z, z_rest for v_j = 1 (the denominator);
// only S and z are relative to the stabiliser. A query weighs the rest by the sum of its features.
#pragma once

#include <numbers>

#include "core/check.h"
#include "kernels/kernel_table.h"
#include "kernels/reference/grouped_attention.h"  // row_of, zero_row
#include "kernels/reference/scalar.h"

namespace fovea::reference {

inline double without_derivative(double x) { return x; }
inline Dual without_derivative(Dual x) { return {x.v}; }

// One head of one batch element: features of single rows, and everything that depends on all keys' exponents.
template <class T>
class FeatureHead {
 public:
  FeatureHead(const FeatureAttentionArgs& args, int64_t batch, int64_t head, Arena& arena)
      : a(args), b(batch), h(head), m(args.features),
        key_exponents_(arena.take<T>(args.keys * m)), c_(arena.take<T>(args.keys)), top_(arena.take<int64_t>(args.keys)),
        feature_c_(arena.take<T>(m)) {
    find_stabilisers();
  }

  const FeatureAttentionArgs& a;
  const int64_t b, h, m;

  const T* query(int64_t i) const { return row_of<T>(a.q, b, i, h); }
  const T* key(int64_t j) const { return row_of<T>(a.k, b, j, h); }
  const T* value(int64_t j) const { return row_of<T>(a.v, b, j, h); }
  bool padded(int64_t j) const { return a.key_padding && a.key_padding[b * a.keys + j] != 0; }
  bool exponential() const { return a.map == FeatureKernel::kSoftmax || a.map == FeatureKernel::kNone; }

  // Without an epsilon any c will do, and the maximum of the whole exponent loses least.
  bool stabiliser_matters() const {
    return a.map == FeatureKernel::kSoftmax && (a.epsilon != 0 || (a.causal && a.causal_epsilon != 0));
  }

  // u of a row less half its squared norm where the map wants that: what the map's function is applied to.
  T projected(const T* x, int64_t f) const {
    if (a.map == FeatureKernel::kNone) return T(a.input_scale) * x[f];
    T sum(0);
    for (int64_t d = 0; d < a.head_dim; ++d) sum += in<T>(a.projection)[f * a.head_dim + d] * T(a.input_scale) * x[d];
    return sum;
  }
  T half_norm(const T* x) const {
    T sum(0);
    if (a.map == FeatureKernel::kSoftmax)
      for (int64_t d = 0; d < a.head_dim; ++d) sum += T(a.input_scale * a.input_scale / 2) * x[d] * x[d];
    return sum;
  }

  // Stabiliser of the keys as it stands at key j; minus infinity before the first key.
  T c(int64_t j) const { return c_[j]; }
  // The feature whose u made key j raise the stabiliser, or -1.
  int64_t top(int64_t j) const { return top_[j]; }

  // E (M) of key j, relative to c(j); zeros for padding.
  void key_features(int64_t j, T* e) const {
    using std::exp;
    for (int64_t f = 0; f < m; ++f) {
      const T u = key_exponents_[j * m + f];
      if (padded(j))
        e[f] = T(0);
      else if (a.map == FeatureKernel::kNone && !a.causal)
        e[f] = exp(u - feature_c_[f]);
      else
        e[f] = exponential() ? exp(u - c_[j]) : generalised(u);
    }
  }
  T key_rest(int64_t j) const { return padded(j) ? T(0) : T(a.epsilon); }

  // phi (M) of query i.
  void query_features(int64_t i, T* phi) const {
    using std::exp;
    const T* x = query(i);
    const T half = half_norm(x);
    for (int64_t f = 0; f < m; ++f) phi[f] = projected(x, f) - half;
    if (!exponential()) {
      for (int64_t f = 0; f < m; ++f) phi[f] = generalised(phi[f]) + T(a.epsilon);
      return;
    }
    T c = phi[query_top(phi)];
    if (stabiliser_matters()) c += half;  // the maximum of u alone
    if (a.constant_stabilisers) c = without_derivative(c);
    T sum(0);
    for (int64_t f = 0; f < m; ++f) sum += phi[f] = exp(phi[f] - c) + T(a.epsilon);
    if (a.map == FeatureKernel::kNone)
      for (int64_t f = 0; f < m; ++f) phi[f] /= sum;
  }
  // By how much a query at place i weighs the rest, beside the sum of its features.
  T rest_weight(int64_t i) const {
    using std::exp;
    return a.map == FeatureKernel::kNone && a.causal ? exp(-c_[i]) : T(1);
  }

  // dx of query i from dphi; phi as above.
  void query_backward(int64_t i, const T* phi, T* dphi, T* dx) const {
    if (a.map == FeatureKernel::kNone) {
      T mean(0);
      for (int64_t f = 0; f < m; ++f) mean += phi[f] * dphi[f];
      for (int64_t f = 0; f < m; ++f) dx[f] = T(a.input_scale) * phi[f] * (dphi[f] - mean);
      return;
    }
    const T* x = query(i);
    int64_t top = 0;
    T all(0), highest(kMinusInfinity);
    for (int64_t f = 0; f < m; ++f) {
      const T u = projected(x, f);
      all += dphi[f];
      if (u > highest) {
        highest = u;
        top = f;
      }
      dphi[f] *= exponential() ? phi[f] - T(a.epsilon) : generalised_slope(u);
    }
    exponent_backward(x, dphi, dx);
    if (exponential() && !a.constant_stabilisers) stabiliser_backward(top, T(a.epsilon) * all, dx);
  }
  // dx of key j from dE; e as key_features gave it.
  void key_backward(int64_t j, const T* e, T* de, T* dx) const {
    for (int64_t f = 0; f < m; ++f) {
      if (padded(j)) de[f] = T(0);
      de[f] *= exponential() ? e[f] : generalised_slope(key_exponents_[j * m + f]);
    }
    exponent_backward(key(j), de, dx);
  }
  // dx += dc · d(u_top)/dx.
  void stabiliser_backward(int64_t top, T dc, T* dx) const {
    for (int64_t d = 0; d < a.head_dim; ++d) dx[d] += dc * T(a.input_scale) * in<T>(a.projection)[top * a.head_dim + d];
  }

 private:
  int64_t query_top(const T* u) const {
    int64_t top = 0;
    for (int64_t f = 1; f < m; ++f)
      if (u[f] > u[top]) top = f;
    return top;
  }
  T generalised(T u) const {
    using std::erf;
    using std::exp;
    if (a.map == FeatureKernel::kExp) return exp(u);
    if (a.map == FeatureKernel::kRelu) return value_of(u) > 0 ? u : T(0);
    return T(0.5) * u * (T(1) + erf(u / T(std::numbers::sqrt2)));
  }
  T generalised_slope(T u) const {
    using std::erf;
    using std::exp;
    if (a.map == FeatureKernel::kExp) return exp(u);
    if (a.map == FeatureKernel::kRelu) return T(value_of(u) > 0 ? 1 : 0);
    return T(0.5) * (T(1) + erf(u / T(std::numbers::sqrt2))) + u * exp(u * u * T(-0.5)) * T(0.5 * std::numbers::inv_sqrtpi * std::numbers::sqrt2);
  }

  // u = W x~ - |x~|^2 / 2: dx~ = W^T du - x~ · sum du.
  void exponent_backward(const T* x, const T* du, T* dx) const {
    zero_row(dx, a.head_dim);
    if (a.map == FeatureKernel::kNone) {
      for (int64_t f = 0; f < m; ++f) dx[f] = T(a.input_scale) * du[f];
      return;
    }
    T sum(0);
    for (int64_t f = 0; f < m; ++f) {
      sum += du[f];
      stabiliser_backward(f, du[f], dx);
    }
    if (a.map == FeatureKernel::kSoftmax)
      for (int64_t d = 0; d < a.head_dim; ++d) dx[d] -= T(a.input_scale * a.input_scale) * x[d] * sum;
  }

  void find_stabilisers() {
    const T none(kMinusInfinity);
    T running = none;
    int64_t last = -1;
    for (int64_t f = 0; f < m; ++f) feature_c_[f] = none;
    for (int64_t j = 0; j < a.keys; ++j) {
      T* u = key_exponents_ + j * m;
      const T half = half_norm(key(j));
      for (int64_t f = 0; f < m; ++f) u[f] = projected(key(j), f) - half;
      top_[j] = -1;
      if (!padded(j)) {
        const int64_t top = query_top(u);
        const T highest = stabiliser_matters() ? u[top] + half : u[top];
        if (highest > running) {
          running = a.constant_stabilisers ? without_derivative(highest) : highest;
          top_[j] = top;
          last = j;
        }
        for (int64_t f = 0; f < m; ++f)
          if (u[f] > feature_c_[f]) feature_c_[f] = u[f];
      }
      c_[j] = running;
    }
    if (a.causal && !a.whole_stabiliser) return;
    for (int64_t j = 0; j < a.keys; ++j) {
      c_[j] = running;
      if (j != last) top_[j] = -1;
    }
  }

  T* key_exponents_;   // (keys, M)
  T* c_;               // (keys)
  int64_t* top_;       // (keys)
  T* feature_c_;       // (M) kNone over all keys: a stabiliser of each feature's own
};

// Sums over rows of features (M) and a width: what keys leave behind for queries, and in the backward queries for keys.
template <class T>
struct FeatureSums {
  int64_t m, width;
  T *s, *z;            // (M, width), (M)
  T *s_rest, z_rest;   // (width)
  FeatureSums(int64_t features, int64_t w, Arena& arena)
      : m(features), width(w), s(arena.take<T>(features * w)), z(arena.take<T>(features)), s_rest(arena.take<T>(w)), z_rest(0) {
    zero_row(s, m * width);
    zero_row(z, m);
    zero_row(s_rest, width);
  }
  void scale(T factor) {
    for (int64_t i = 0; i < m * width; ++i) s[i] *= factor;
    for (int64_t f = 0; f < m; ++f) z[f] *= factor;
  }
  void add(const T* features, T rest, const T* row, T one) {
    for (int64_t f = 0; f < m; ++f) {
      for (int64_t d = 0; d < width; ++d) s[f * width + d] += features[f] * row[d];
      z[f] += features[f] * one;
    }
    for (int64_t d = 0; d < width; ++d) s_rest[d] += rest * row[d];
    z_rest += rest * one;
  }
  // From one stabiliser to another; nothing is there yet where the old one is minus infinity.
  void move(T from, T to) {
    using std::exp;
    if (value_of(from) != kMinusInfinity && value_of(from) != value_of(to)) scale(exp(from - to));
  }
};

// Takes keys in order: sums after key j are relative to c(j).
template <class T>
struct KeySums : FeatureSums<T> {
  const FeatureHead<T>& head;
  T* e;
  KeySums(const FeatureHead<T>& of, Arena& arena)
      : FeatureSums<T>(of.m, of.a.value_dim, arena), head(of), e(arena.take<T>(of.m)) {
    this->z_rest = T(of.a.causal ? of.a.causal_epsilon : 0.0);
  }
  void take(int64_t j) {
    if (head.exponential() && j > 0) this->move(head.c(j - 1), head.c(j));
    head.key_features(j, e);
    this->add(e, head.key_rest(j), head.value(j), T(1));
  }
  // kNone over all keys: each feature is a mean.
  void finish() {
    if (head.a.map != FeatureKernel::kNone || head.a.causal) return;
    for (int64_t f = 0; f < this->m; ++f) {
      if (value_of(this->z[f]) == 0) continue;
      for (int64_t d = 0; d < this->width; ++d) this->s[f * this->width + d] /= this->z[f];
    }
  }
  bool means() const { return head.a.map == FeatureKernel::kNone && !head.a.causal; }
  T sum(int64_t f) const { return means() && value_of(this->z[f]) != 0 ? T(1) : this->z[f]; }  // what stands in the denominator
};

// Denominator of query i, and the numerator (value_dim) when wanted; zero where no key is met.
template <class T>
T feature_quotient(const FeatureHead<T>& head, const KeySums<T>& sums, int64_t i, const T* phi, T* numerator) {
  if (head.a.causal && value_of(head.c(i)) == kMinusInfinity) return T(0);
  T denominator(0), total(0);
  for (int64_t f = 0; f < head.m; ++f) {
    total += phi[f];
    denominator += phi[f] * sums.sum(f);
  }
  const T rest = total * head.rest_weight(i);
  denominator += rest * sums.z_rest;
  for (int64_t d = 0; numerator && d < sums.width; ++d) {
    numerator[d] = rest * sums.s_rest[d];
    for (int64_t f = 0; f < head.m; ++f) numerator[d] += phi[f] * sums.s[f * sums.width + d];
  }
  return denominator;
}

template <class T, class F>
void for_each_feature_head(const FeatureAttentionArgs& a, Context& ctx, F&& f) {
  check(!a.causal || a.queries == a.keys, "causal feature attention of {} queries on {} keys", a.queries, a.keys);
  check(a.features >= 1 && (a.map != FeatureKernel::kNone || a.features == a.head_dim), "{} features", a.features);
  for (int64_t b = 0; b < a.batch; ++b)
    for (int64_t h = 0; h < a.heads; ++h) {
      ArenaScope scope(ctx.scratch());
      f(FeatureHead<T>(a, b, h, ctx.scratch()));
    }
}

template <class T>
void feature_attention(const FeatureAttentionArgs& a, Context& ctx) {
  for_each_feature_head<T>(a, ctx, [&](const FeatureHead<T>& head) {
    T* phi = ctx.scratch().take<T>(head.m);
    KeySums<T> sums(head, ctx.scratch());
    if (!a.causal)
      for (int64_t j = 0; j < a.keys; ++j) sums.take(j);
    sums.finish();
    for (int64_t i = 0; i < a.queries; ++i) {
      if (a.causal) sums.take(i);
      head.query_features(i, phi);
      T* o = row_of<T>(a.out, head.b, i, head.h);
      const T denominator = feature_quotient(head, sums, i, phi, o);
      for (int64_t d = 0; d < a.value_dim; ++d) o[d] = value_of(denominator) == 0 ? T(0) : o[d] / denominator;
    }
  });
}

// With n_i the numerator, D_i the denominator and g the upstream gradient: dn_i = g_i / D_i, dD_i = -(g_i · o_i) / D_i, then
// dphi(q_i) = S dn_i + z dD_i with the sums that query i sees, and with R = sum phi(q_i) dn_i^T, r = sum phi(q_i) dD_i over the
// queries that see key j: dphi(k_j) = R v_j + r, dv_j = R^T phi(k_j). The stabiliser of the keys takes from query i what the
// rest gives it, rest_i · (S_rest · dn_i + z_rest dD_i): numerator and denominator together give zero.
template <class T>
void feature_attention_backward(const FeatureAttentionBackwardArgs& args, Context& ctx) {
  const FeatureAttentionArgs& a = args.forward;
  for_each_feature_head<T>(a, ctx, [&](const FeatureHead<T>& head) {
    const int64_t m = head.m, width = a.value_dim, b = head.b, h = head.h;
    Arena& arena = ctx.scratch();
    T* phi = arena.take<T>(m);
    T* dphi = arena.take<T>(m);
    T* numerator = arena.take<T>(width);
    T* dn = arena.take<T>(a.queries * width);
    T* dd = arena.take<T>(a.queries);
    T* dc = arena.take<T>(a.queries);
    KeySums<T> sums(head, arena);
    if (!a.causal)
      for (int64_t j = 0; j < a.keys; ++j) sums.take(j);
    sums.finish();
    for (int64_t i = 0; i < a.queries; ++i) {
      if (a.causal) sums.take(i);
      head.query_features(i, phi);
      const T denominator = feature_quotient(head, sums, i, phi, numerator);
      const T* g = row_of<T>(args.dout, b, i, h);
      T* dn_i = dn + i * width;
      zero_row(dn_i, width);
      dd[i] = dc[i] = T(0);
      T rest(0), total(0);
      if (value_of(denominator) != 0) {
        for (int64_t d = 0; d < width; ++d) {
          dn_i[d] = g[d] / denominator;
          dd[i] -= g[d] * numerator[d] / (denominator * denominator);
          rest += dn_i[d] * sums.s_rest[d];
        }
        rest += dd[i] * sums.z_rest;
        rest *= head.rest_weight(i);
      }
      for (int64_t f = 0; f < m; ++f) {
        total += phi[f];
        dphi[f] = rest + dd[i] * sums.sum(f);
        for (int64_t d = 0; d < width; ++d) dphi[f] += dn_i[d] * sums.s[f * width + d];
      }
      dc[i] = rest * total;
      head.query_backward(i, phi, dphi, row_of<T>(args.dq, b, i, h));
    }

    FeatureSums<T> seen(m, width, arena);
    T* e = arena.take<T>(m);
    T* de = arena.take<T>(m);
    T carry(0);
    const auto take = [&](int64_t i) {
      head.query_features(i, phi);
      T total(0);
      for (int64_t f = 0; f < m; ++f) total += phi[f];
      if (!a.causal || value_of(head.c(i)) != kMinusInfinity) seen.add(phi, total * head.rest_weight(i), dn + i * width, dd[i]);
      carry += dc[i];
    };
    if (!a.causal)
      for (int64_t i = 0; i < a.queries; ++i) take(i);
    if (sums.means()) {  // S_f is a mean: its weights' gradients sum to zero, as a softmax's do
      for (int64_t f = 0; f < m; ++f) {
        seen.z[f] = T(0);
        for (int64_t d = 0; d < width && value_of(sums.z[f]) != 0; ++d) {
          seen.s[f * width + d] /= sums.z[f];
          seen.z[f] -= seen.s[f * width + d] * sums.s[f * width + d];
        }
      }
    }
    if (a.causal && a.whole_stabiliser)
      for (int64_t i = 0; i < a.queries; ++i) carry += dc[i];
    for (int64_t j = a.keys - 1; j >= 0; --j) {
      if (a.causal) {
        if (head.exponential() && j + 1 < a.keys) seen.move(head.c(j), head.c(j + 1));
        const T before = carry;
        take(j);
        if (a.whole_stabiliser) carry = before;
      }
      head.key_features(j, e);
      const T* v = head.value(j);
      T* dv = row_of<T>(args.dv, b, j, h);
      for (int64_t d = 0; d < width; ++d) {
        dv[d] = head.key_rest(j) * seen.s_rest[d];
        for (int64_t f = 0; f < m; ++f) dv[d] += e[f] * seen.s[f * width + d];
      }
      for (int64_t f = 0; f < m; ++f) {
        de[f] = seen.z[f];
        for (int64_t d = 0; d < width; ++d) de[f] += v[d] * seen.s[f * width + d];
      }
      T* dk = row_of<T>(args.dk, b, j, h);
      head.key_backward(j, e, de, dk);
      if (head.top(j) < 0 || a.map != FeatureKernel::kSoftmax || a.constant_stabilisers) continue;
      head.stabiliser_backward(head.top(j), carry, dk);
      carry = T(0);
    }
  });
}

}  // namespace fovea::reference
