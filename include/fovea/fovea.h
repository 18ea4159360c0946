// fovea: vision transformers whose attention is a part you can swap. The whole public interface.
#pragma once

#include "fovea/bench.h"
#include "fovea/compare.h"
#include "fovea/convert.h"
#include "fovea/error.h"
#include "fovea/evaluate.h"
#include "fovea/info.h"
#include "fovea/model.h"
#include "fovea/train.h"
