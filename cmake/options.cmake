# Compiler options of every target. No -ffast-math: NaN, infinities and the order of sums are part of the results.
add_library(fovea_options INTERFACE)
target_compile_options(fovea_options INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion -Wnon-virtual-dtor -Wold-style-cast)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # -Wpsabi notes concern vector types at ABI borders that we do not have; gcc 12 reports false positives in fmt and in its own intrinsics for the others.
  target_compile_options(fovea_options INTERFACE -Wno-psabi -Wno-stringop-overflow -Wno-stringop-overread -Wno-restrict -Wno-array-bounds -Wno-maybe-uninitialized -Wno-uninitialized -Wno-mismatched-new-delete)
else()
  target_compile_options(fovea_options INTERFACE -Wno-psabi)
endif()
# A multiply and an add are contracted to a fused one only where the code says so: results equal across compilers and options.
target_compile_options(fovea_options INTERFACE -ffp-contract=off)
if(FOVEA_SANITIZE)
  target_compile_options(fovea_options INTERFACE -fsanitize=${FOVEA_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  target_link_options(fovea_options INTERFACE -fsanitize=${FOVEA_SANITIZE})
endif()
