# The kernel of the drafter's candidates, which is compiled for several instruction sets and chooses at run time. A row
# must be rounded alike wherever it stands in a call: no contraction that the code does not ask for.
set(EDGE_MTP_CANDIDATES)
foreach(name candidates candidates_avx2 candidates_baseline)
  list(APPEND EDGE_MTP_CANDIDATES ${CMAKE_CURRENT_LIST_DIR}/${name}.cc)
endforeach()
set_source_files_properties(${EDGE_MTP_CANDIDATES} PROPERTIES COMPILE_OPTIONS "-ffp-contract=off")
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  set_source_files_properties(${CMAKE_CURRENT_LIST_DIR}/candidates_avx2.cc
    PROPERTIES COMPILE_OPTIONS "-ffp-contract=off;-mavx2;-mfma;-mf16c")
endif()
