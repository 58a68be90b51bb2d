// RMSNorm (Zhang and Sennrich 2019, arXiv 1910.07467).
#pragma once

#include "vectors.h"

namespace treedraft {

inline void norm(const float* numbers, const float* weights, int count, float epsilon,
                 float* normed) {
  const int whole = count / kLanes * kLanes;
  Floats squares = {};
  for (int i = 0; i < whole; i += kLanes) squares += load(numbers + i) * load(numbers + i);
  float square = sum(squares);
  for (int i = whole; i < count; ++i) square += numbers[i] * numbers[i];
  const float factor = 1.0f / std::sqrt(square / count + epsilon);
  for (int i = 0; i < count; ++i) normed[i] = numbers[i] * factor * weights[i];
}

}  // namespace treedraft
