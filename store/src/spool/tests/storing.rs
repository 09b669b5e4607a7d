//! What was added is there, now and after a restart.

use super::*;

#[tokio::test]
async fn objects_of_any_size_come_back_as_they_were() {
    let (spool, folder) = spool();
    let (lib, lib_nar) = text("lib", b"lib", &[]);
    let (drv, drv_nar) = text("a.drv", b"Derive()", &[&lib.path]);
    let mut expected = vec![(lib.clone(), lib_nar), (drv.clone(), drv_nar)];
    for seed in 0..20 {
        let content = noise(seed, 1 << seed);
        expected.push(source(&format!("src-{seed}"), file_nar(&content), &[&lib.path]));
    }
    assert!(expected.last().unwrap().0.info.nar_size > LARGE);
    let mut objects = Vec::new();
    for (info, nar) in &expected {
        objects.push(
            spool
                .receive(info.clone(), &mut &nar[..], Authority::Untrusted)
                .await
                .unwrap(),
        );
    }
    // In any order.
    objects.reverse();
    assert_eq!(spool.add(objects).await.unwrap(), 22);

    for spool in [spool, open(folder.path())] {
        assert_eq!(spool.len(), 22);
        for (object, nar) in &expected {
            assert!(read(&spool, &object.path).await == *nar, "{}", object.path);
            let mut kept = object.clone();
            kept.info.ultimate = false;
            assert_eq!(spool.info(&object.path).await.unwrap(), Some(kept));
            let small = spool.small(&object.path).await.unwrap();
            assert_eq!(small.is_some(), object.info.nar_size < LARGE);
        }
        assert_eq!(spool.file(&drv.path).await.unwrap().as_deref(), Some(&b"Derive()"[..]));
        let (other, _) = text("other", b"", &[]);
        let asked = vec![drv.path.clone(), other.path.clone(), lib.path.clone()];
        assert_eq!(
            spool.references(asked).await.unwrap(),
            [Some(vec![lib.path.clone()]), None, Some(vec![])]
        );
        assert_eq!(spool.valid_batch(&[*other.path.digest(), *drv.path.digest()]), [0b10]);
        assert!(spool.contains(&lib.path) && !spool.contains(&other.path));
        assert!(spool.nar(&other.path).await.unwrap().is_none());
        assert_eq!(spool.file(&other.path).await.unwrap(), None);
        spool.close().await;
    }
}

#[tokio::test]
async fn what_refers_to_nothing_here_is_refused_with_its_whole_batch() {
    let (spool, folder) = spool();
    let (lib, lib_nar) = text("lib", b"lib", &[]);
    let drv = text("a.drv", b"Derive()", &[&lib.path]);
    let large = source("large", file_nar(&noise(1, 300_000)), &[]);
    let received = spool
        .receive(large.0.clone(), &mut &large.1[..], Authority::Untrusted)
        .await
        .unwrap();
    let error = spool
        .add(vec![proven(text("b", b"b", &[])), received, proven(drv.clone())])
        .await
        .unwrap_err();
    let said = error.to_string();
    assert!(
        said.contains(&drv.0.path.to_string()) && said.contains(&lib.path.to_string()),
        "{said}"
    );
    assert_eq!(spool.len(), 0);
    let files = std::fs::read_dir(folder.path().join("nars")).unwrap().count();
    assert_eq!(files, 0, "nothing of the batch is left");

    // In the same batch, after it, is as good as before.
    assert_eq!(
        spool
            .add(vec![proven(drv.clone()), proven((lib, lib_nar))])
            .await
            .unwrap(),
        2
    );
    assert_eq!(spool.add(vec![proven(drv.clone()), proven(drv)]).await.unwrap(), 0);
}

#[tokio::test]
async fn many_may_add_the_same_at_once() {
    let (spool, _folder) = spool();
    let objects = || {
        (0..100_u32)
            .map(|at| proven(text(&format!("t{at}"), &at.to_le_bytes(), &[])))
            .collect::<Vec<_>>()
    };
    let added = futures_util::future::join_all((0..10).map(|_| spool.add(objects()))).await;
    assert_eq!(added.into_iter().map(|added| added.unwrap()).sum::<u64>(), 100);
    assert_eq!(spool.len(), 100);
    let (t7, nar) = text("t7", &7_u32.to_le_bytes(), &[]);
    assert_eq!(read(&spool, &t7.path).await, nar);
}

#[tokio::test]
async fn an_add_goes_on_when_its_caller_goes_away() {
    let (spool, _folder) = spool();
    let large = source("large", file_nar(&noise(1, 300_000)), &[]);
    let received = spool
        .receive(large.0.clone(), &mut &large.1[..], Authority::Untrusted)
        .await
        .unwrap();
    {
        let mut adding = Box::pin(spool.add(vec![received]));
        assert!(futures_util::poll!(&mut adding).is_pending());
    }
    // What is added next is committed after it.
    while !spool.contains(&large.0.path) {
        spool.add(vec![proven(text("t", b"t", &[]))]).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert!(read(&spool, &large.0.path).await == large.1);
}

#[tokio::test]
async fn what_a_crash_left_is_removed_and_what_counts_is_kept() {
    let (spool, folder) = spool();
    let large = source("large", file_nar(&noise(1, 300_000)), &[]);
    let received = spool
        .receive(large.0.clone(), &mut &large.1[..], Authority::Untrusted)
        .await
        .unwrap();
    spool.add(vec![received]).await.unwrap();
    spool.close().await;
    let nars = folder.path().join("nars");
    std::fs::write(nars.join("77.nar.zst"), "named, and its row was never committed").unwrap();
    std::fs::write(nars.join("78.tmp"), "half").unwrap();
    let spool = open(folder.path());
    assert_eq!(std::fs::read_dir(&nars).unwrap().count(), 1);
    assert!(read(&spool, &large.0.path).await == large.1);

    // Damage is an error of that object, and of no other.
    let file = std::fs::read_dir(&nars).unwrap().next().unwrap().unwrap().path();
    std::fs::write(&file, &std::fs::read(&file).unwrap()[..1000]).unwrap();
    let mut nar = spool.nar(&large.0.path).await.unwrap().unwrap();
    let error = nar.read_to_end(&mut Vec::new()).await.unwrap_err();
    assert!(error.to_string().contains("nar.zst"), "{error}");
}
