# The kernel of experts and its products, which are compiled for several instruction sets and chosen at run time. A row
# must be rounded alike wherever it stands in a call: no contraction that the code does not ask for.
set(EDGE_MTP_EXPERTS)
foreach(name experts few_rows few_rows_avx2 few_rows_baseline few_rows_dotprod weight_pages)
  list(APPEND EDGE_MTP_EXPERTS ${CMAKE_CURRENT_LIST_DIR}/${name}.cc)
endforeach()
set_source_files_properties(${EDGE_MTP_EXPERTS} PROPERTIES COMPILE_OPTIONS "-ffp-contract=off")
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  set_source_files_properties(${CMAKE_CURRENT_LIST_DIR}/few_rows_avx2.cc
    PROPERTIES COMPILE_OPTIONS "-ffp-contract=off;-mavx2;-mfma;-mf16c")
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|arm64|ARM64")
  set_source_files_properties(${CMAKE_CURRENT_LIST_DIR}/few_rows_dotprod.cc
    PROPERTIES COMPILE_OPTIONS "-ffp-contract=off;-march=armv8.2-a+dotprod")
endif()
