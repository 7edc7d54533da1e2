# Floats are never contracted or reordered by the compiler: a fused multiply-add happens where the source says so and
# nowhere else. Row independence (docs/architecture.md) rests on this.
add_compile_options(-Wall -Wextra -Wno-unused-parameter -Wno-missing-field-initializers -ffp-contract=off -fno-math-errno)

# GCC 12 sees overlapping copies in plain string concatenation (its bug 105329).
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-Wno-restrict>)
endif()

# Highway's NEON target includes AES; GCC refuses to inline between functions that have it and implicit members that do not.
if(CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|arm64")
  add_compile_options(-march=armv8-a+crypto)
endif()

find_program(LARDER_CCACHE ccache)
if(LARDER_CCACHE)
  set(CMAKE_C_COMPILER_LAUNCHER ${LARDER_CCACHE})
  set(CMAKE_CXX_COMPILER_LAUNCHER ${LARDER_CCACHE})
endif()

# larder_library(NAME SOURCES... ) : one target a folder, with src/ as the include root.
function(larder_library name)
  add_library(${name} STATIC ${ARGN})
  target_include_directories(${name} PUBLIC ${PROJECT_SOURCE_DIR}/src)
endfunction()

set(LARDER_TEST_TIMEOUT 900 CACHE STRING "seconds after which a test has failed")

# larder_test(NAME SOURCE... LIBS lib...) : one GoogleTest program, one ctest entry.
function(larder_test name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LIBS;LABELS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE ${ARG_LIBS} GTest::gtest GTest::gtest_main)
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR})
  target_compile_definitions(${name} PRIVATE LARDER_TEST_DATA="${PROJECT_SOURCE_DIR}/tests/data")
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT ${LARDER_TEST_TIMEOUT})
endfunction()
