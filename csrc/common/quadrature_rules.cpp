#include "quadrature_rules.h"

#include <atomic>
#include <cmath>
#include <memory>

namespace seam {

namespace {

constexpr int kMost = 6;                  // nodes of a part
constexpr int64_t kTransientSteps = 180;  // kBeta1^180 < 1e-8: later terms of the transient part are negligible

// Eigenvalues of a symmetric n x n matrix, and the squared first components of its eigenvectors, by Jacobi rotations.
void eigen(int n, double (&a)[kMost][kMost], double* value, double* first_squared) {
  double vector[kMost] = {1};  // the first row of the matrix of eigenvectors
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

// Gaussian quadrature with n nodes for the sum over j = 1 .. count of ratio^j f(j), exact for polynomials of degree 2 n
// - 1. The orthogonal polynomials of the sum come from Stieltjes' recurrence, nodes and weights from Golub and Welsch's
// algorithm.
void gauss(int64_t count, double ratio, int n, double* node, double* weight) {
  double matrix[kMost][kMost] = {}, total = 0, norm_before = 0, off = 0;
  double alpha[kMost], beta[kMost];
  const double middle = 0.5 * double(count + 1);  // centred, which keeps the numbers small
  for (int i = 0; i < n; ++i) {
    double norm = 0, moment = 0, power = 1;
    for (int64_t j = 1; j <= count; ++j) {
      power *= ratio;
      const double x = double(j) - middle;
      double before = 0, p = 1;  // the i-th polynomial at x, by the three-term recurrence
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
  eigen(n, matrix, node, weight);
  for (int i = 0; i < n; ++i) node[i] += middle, weight[i] *= total;
}

// Nodes for the constant part: enough for an error well below that of replaying in float32 (measured, and held by
// tests/test_lazy_updates.py).
int constant_nodes(int64_t count) {
  const int wanted = count <= 200 ? 2 : count <= 700 ? 3 : count <= 1200 ? 4 : count <= 1800 ? 5 : 6;
  return count < wanted ? int(count) : wanted;
}

template <typename T>
QuadratureRule<T> make_rule(int64_t count) {
  QuadratureRule<T> rule{};
  double node[kMaxNodes], weight[kMaxNodes];
  rule.transient = count < 2 ? 1 : 2;
  rule.nodes = rule.transient + constant_nodes(count);
  gauss(count < kTransientSteps ? count : kTransientSteps, kBeta1, rule.transient, node, weight);
  gauss(count, 1, rule.nodes - rule.transient, node + rule.transient, weight + rule.transient);
  for (int i = 0; i < rule.nodes; ++i) {
    rule.beta2_power[i] = std::pow(kBeta2, node[i]);
    rule.weight[i] = T(weight[i]);
  }
  rule.exp_avg_decay = T(std::pow(kBeta1, double(count)));
  rule.exp_avg_sq_decay = T(std::pow(kBeta2, double(count)));
  return rule;
}

}  // namespace

template <typename T>
const QuadratureRule<T>& quadrature_rule(int64_t count) {
  static std::atomic<const QuadratureRule<T>*> rules[kMaxSkippedSteps + 1];
  const QuadratureRule<T>* known = rules[count].load(std::memory_order_acquire);
  if (known) return *known;
  auto made = std::make_unique<const QuadratureRule<T>>(make_rule<T>(count));
  // Where two threads have made the same rule, the first one stays.
  if (rules[count].compare_exchange_strong(known, made.get(), std::memory_order_acq_rel)) return *made.release();
  return *known;
}

template const QuadratureRule<float>& quadrature_rule<float>(int64_t);
template const QuadratureRule<double>& quadrature_rule<double>(int64_t);

}  // namespace seam
