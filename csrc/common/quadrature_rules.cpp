#include "quadrature_rules.h"

#include <atomic>
#include <cmath>
#include <memory>

namespace seam {

namespace {

constexpr int kMost = 6;
constexpr int64_t kDying = 180;  // kBeta1^180 < 1e-8: what comes later adds nothing

// Eigenvalues of a symmetric matrix of size n, and the squared first components of its eigenvectors (Jacobi's rotations).
void eigen(int n, double (&a)[kMost][kMost], double* value, double* first_squared) {
  double vector[kMost] = {1};  // first row of the matrix of eigenvectors
  for (int sweep = 0; sweep < 30; ++sweep) {
    for (int p = 0; p < n; ++p) {
      for (int q = p + 1; q < n; ++q) {
        if (a[p][q] == 0) continue;
        const double theta = (a[q][q] - a[p][p]) / (2 * a[p][q]);
        const double t = (theta < 0 ? -1 : 1) / (std::abs(theta) + std::sqrt(theta * theta + 1));
        const double c = 1 / std::sqrt(t * t + 1), s = t * c;
        for (int k = 0; k < n; ++k) {
          const double kp = a[k][p], kq = a[k][q];
          a[k][p] = c * kp - s * kq, a[k][q] = s * kp + c * kq;
        }
        for (int k = 0; k < n; ++k) {
          const double pk = a[p][k], qk = a[q][k];
          a[p][k] = c * pk - s * qk, a[q][k] = s * pk + c * qk;
        }
        const double vp = vector[p], vq = vector[q];
        vector[p] = c * vp - s * vq, vector[q] = s * vp + c * vq;
      }
    }
  }
  for (int i = 0; i < n; ++i) value[i] = a[i][i], first_squared[i] = vector[i] * vector[i];
}

// Gauss' rule of n places for the sum over j = 1 .. count of ratio^j f(j): exact for polynomials of degree 2 n - 1. The
// orthogonal polynomials of the sum are built by Stieltjes' recurrence, the places are the roots of the n-th (Golub, Welsch).
void gauss(int64_t count, double ratio, int n, double* place, double* weight) {
  double matrix[kMost][kMost] = {}, total = 0, norm_before = 0, off = 0;
  double alpha[kMost], beta[kMost];
  const double middle = 0.5 * double(count + 1);  // places around 0 keep the numbers small
  for (int i = 0; i < n; ++i) {
    double norm = 0, moment = 0, power = 1;
    for (int64_t j = 1; j <= count; ++j) {
      power *= ratio;
      const double x = double(j) - middle;
      double before = 0, p = 1;  // the i-th polynomial at x, from the first
      for (int m = 0; m < i; ++m) {
        const double next = (x - alpha[m]) * p - (m > 0 ? beta[m] : 0) * before;
        before = p, p = next;
      }
      norm += power * p * p, moment += power * x * p * p;
    }
    alpha[i] = moment / norm;
    if (i == 0) total = norm;
    else beta[i] = norm / norm_before, off = std::sqrt(beta[i]), matrix[i - 1][i] = matrix[i][i - 1] = off;
    matrix[i][i] = alpha[i];
    norm_before = norm;
  }
  eigen(n, matrix, place, weight);
  for (int i = 0; i < n; ++i) place[i] += middle, weight[i] *= total;
}

// Places for the constant part: enough for an error well below that of replaying in float32 (measured; tests/test_gaps.py).
int constant_places(int64_t count) {
  const int wanted = count <= 200 ? 2 : count <= 700 ? 3 : count <= 1200 ? 4 : count <= 1800 ? 5 : 6;
  return count < wanted ? int(count) : wanted;
}

template <typename T>
GapRule<T> make_rule(int64_t count) {
  GapRule<T> rule{};
  double place[kMaxPlaces], weight[kMaxPlaces];
  rule.transient = count < 2 ? 1 : 2;
  rule.places = rule.transient + constant_places(count);
  gauss(count < kDying ? count : kDying, kBeta1, rule.transient, place, weight);
  gauss(count, 1, rule.places - rule.transient, place + rule.transient, weight + rule.transient);
  for (int i = 0; i < rule.places; ++i) {
    rule.beta2_power[i] = std::pow(kBeta2, place[i]);
    rule.weight[i] = T(weight[i]);
  }
  rule.exp_avg_decay = T(std::pow(kBeta1, double(count)));
  rule.exp_avg_sq_decay = T(std::pow(kBeta2, double(count)));
  return rule;
}

}  // namespace

template <typename T>
const GapRule<T>& gap_rule(int64_t count) {
  static std::atomic<const GapRule<T>*> rules[kLongestGap + 1];
  const GapRule<T>* known = rules[count].load(std::memory_order_acquire);
  if (known) return *known;
  auto made = std::make_unique<const GapRule<T>>(make_rule<T>(count));
  // Two threads may have made the same one: the first is kept.
  if (rules[count].compare_exchange_strong(known, made.get(), std::memory_order_acq_rel)) return *made.release();
  return *known;
}

template const GapRule<float>& gap_rule<float>(int64_t);
template const GapRule<double>& gap_rule<double>(int64_t);

}  // namespace seam
