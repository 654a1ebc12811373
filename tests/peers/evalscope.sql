BEGIN TRANSACTION;
CREATE TABLE result(
                      request TEXT,
                      start_time REAL,
                      inter_token_latencies TEXT,
                      success INTEGER,
                      response_messages TEXT,
                      completed_time REAL,
                      latency REAL,
                      first_chunk_latency REAL,
                      prompt_tokens INTEGER,
                      completion_tokens INTEGER,
                      max_gpu_memory_cost REAL,
                      time_per_output_token REAL,
                      request_id TEXT,
                      is_stream INTEGER
                   );
INSERT INTO "result" VALUES('',69932.33257257,'[0.027756962008425035, 0.012005279000732116, 0.036060654994798824]',1,'',69932.676403511,3.43830940997577272355e-01,2.67935887997737154364e-01,72,4,0.0,2.52983509999467059969e-02,NULL,1);
INSERT INTO "result" VALUES('',69932.676563359,'[]',0,'',69932.692876086,NULL,NULL,NULL,NULL,NULL,NULL,NULL,1);
INSERT INTO "result" VALUES('',69932.692938489,'[0.0122089920041617, 0.027665685993270017, 0.012084057001629844]',1,'',69932.936378707,2.43440218007890507578e-01,1.91411209001671522855e-01,72,4,0.0,1.73430030020729937512e-02,NULL,1);
COMMIT;
